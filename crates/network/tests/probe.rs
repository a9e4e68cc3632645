//! The engine asks whether a guest's port takes connections.

mod bench;

use bench::{Guest, Network};
use ireko_protocol::network::{Answer, Mode, Request};
use smoltcp::socket::tcp::State;

/// Asks while the guest's stack works.
fn probe(network: &Network, guest: &mut Guest, port: u16) -> Answer {
    std::thread::scope(|scope| {
        let container = network.endpoint(2).container;
        let asking = scope.spawn(move || network.ask(Request::Probe { container, port }));
        guest.until(|_| asking.is_finished().then_some(()));
        asking.join().unwrap()
    })
}

#[test]
fn a_port_is_open_where_somebody_listens_in_every_mode() {
    for mode in [Mode::Nat, Mode::Natnet, Mode::Hostonly, Mode::Internal] {
        let network = Network::start(mode, |_| {});
        let mut guest = network.guest(2);
        assert_eq!(probe(&network, &mut guest, 80), Answer::Probed { open: false }, "{mode:?}");
        let handle = guest.tcp();
        guest.stream(handle).listen(80).unwrap();
        assert_eq!(probe(&network, &mut guest, 80), Answer::Probed { open: true }, "{mode:?}");
        // The service sees a client that says nothing and ends.
        guest.until(|guest| (guest.stream(handle).state() == State::CloseWait).then_some(()));
        guest.stream(handle).close();
        guest.until(|guest| (guest.stream(handle).state() == State::Closed).then_some(()));
    }
}

#[test]
fn a_guest_that_says_nothing_is_given_up_and_one_that_is_not_there_is_refused() {
    let network = Network::start(Mode::Natnet, |_| {});
    // Its stack is never turned.
    let _guest = network.guest(2);
    let container = network.endpoint(2).container;
    let answer = network.ask(Request::Probe { container, port: 80 });
    assert_eq!(answer, Answer::Probed { open: false });
    let container = network.endpoint(3).container;
    let answer = network.ask(Request::Probe { container, port: 80 });
    assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
}
