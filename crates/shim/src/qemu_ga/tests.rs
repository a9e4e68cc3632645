use super::*;
use crate::machine_freeze::thaw_until;
use crate::sysprep::sysprep;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

/// A guest whose agent answers as the test says.
struct Guest {
    _folder: tempfile::TempDir,
    agent: QemuGa,
    listener: UnixListener,
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = QemuGa { socket, line: Mutex::new(None), is_there: Box::new(|| true) };
        Self { _folder: folder, agent, listener }
    }

    /// On one connection: synchronises as it should, after `before`, then answers each call with
    /// the next of `answers`; what it was asked.
    fn serve(&self, before: &'static [u8], answers: Vec<Vec<u8>>) -> JoinHandle<Vec<Value>> {
        let listener = self.listener.try_clone().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = BufReader::new(stream.try_clone().unwrap());
            let mut calls = Vec::new();
            for answer in answers {
                let sync = next(&mut asked);
                let id = &sync["arguments"]["id"];
                let _ = stream.write_all(before);
                let _ = stream.write_all(&[0xff]);
                let _ = stream.write_all(format!("{{\"return\": {id}}}\n").as_bytes());
                calls.push(next(&mut asked));
                // One that says too much is not listened to until its end.
                let _ = stream.write_all(&answer);
            }
            calls
        })
    }
}

fn next(from: &mut impl BufRead) -> Value {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).unwrap();
    serde_json::from_slice(line.strip_prefix(&[0xff]).unwrap_or(&line)).unwrap()
}

fn says(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

#[test]
fn a_program_is_run_and_its_output_taken() {
    let guest = Guest::new();
    let done =
        r#"{"return": {"exited": true, "exitcode": 3, "out-data": "aGkK", "err-data": "bw=="}}"#;
    let answers = vec![
        says(r#"{"return": {"pid": 7}}"#),
        says(r#"{"return": {"exited": false}}"#),
        says(done),
    ];
    let serving = guest.serve(b"", answers);
    let pid = guest.agent.start(&["ls".into(), "-l".into()], &[]).unwrap();
    assert_eq!(guest.agent.outcome(pid).unwrap(), None);
    let exited = guest.agent.outcome(pid).unwrap().unwrap();
    assert_eq!((exited.code, exited.stdout, exited.stderr), (Some(3), b"hi\n".into(), b"o".into()));
    let calls = serving.join().unwrap();
    assert_eq!(calls[0]["arguments"]["path"], "ls");
    assert_eq!(calls[0]["arguments"].get("env"), None);
    assert_eq!(calls[2]["arguments"]["pid"], 7);
}

#[test]
fn late_answers_and_rubbish_from_before_are_not_taken_for_this_one() {
    let guest = Guest::new();
    let rubbish = b"{\"return\": 9}\n\xff{\"return\": 1}\nnot json\n";
    let serving = guest.serve(rubbish, vec![says(r#"{"return": 2}"#)]);
    assert_eq!(guest.agent.thaw().unwrap(), 2);
    serving.join().unwrap();
}

#[test]
fn a_refusal_is_told_and_the_line_goes_on() {
    let guest = Guest::new();
    let refused = r#"{"error": {"class": "GenericError", "desc": "not now"}}"#;
    let serving = guest.serve(b"", vec![says(refused), says(r#"{"return": {}}"#)]);
    let error = guest.agent.freeze().unwrap_err();
    assert_eq!(error.to_string(), "the guest's agent: not now");
    guest.agent.ping().unwrap();
    serving.join().unwrap();
}

#[test]
fn a_lying_agent_fails_the_call_and_not_more() {
    for (answer, told) in [
        (vec![b'x'; SMALL + (64 << 10)], "without end"),
        (says("{}"), "neither"),
        (says("\u{0}"), "no JSON"),
        (says(r#"{"return": "many"}"#), "a number"),
        (says(r#"{"return": -1}"#), "a number"),
    ] {
        let guest = Guest::new();
        let serving = guest.serve(b"", vec![answer]);
        let error = guest.agent.thaw().unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        drop(guest);
        serving.join().unwrap();
    }
}

#[test]
fn one_that_never_answers_and_one_that_never_stops_end_with_the_deadline() {
    let short = Duration::from_millis(50);
    let guest = Guest::new();
    let error = guest.agent.call("guest-ping", json!({}), short, SMALL).unwrap_err();
    assert!(matches!(error, AgentError::Late(limit) if limit == short), "{error}");

    let guest = Guest::new();
    let listener = guest.listener.try_clone().unwrap();
    let endless = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b"\xff{\"return\": 0}\n").is_ok() {}
    });
    let error = guest.agent.call("guest-ping", json!({}), short, SMALL).unwrap_err();
    assert!(matches!(error, AgentError::Late(_)), "{error}");
    drop(guest);
    endless.join().unwrap();
}

#[test]
fn one_that_is_not_there_is_not_waited_for() {
    let guest = Guest::new();
    let agent = QemuGa { is_there: Box::new(|| false), ..guest.agent };
    let error = agent.ping().unwrap_err().to_string();
    assert!(error.contains("ireko image prepare"), "{error}");
}

#[test]
fn addresses_are_read_and_what_is_none_is_left_out() {
    let guest = Guest::new();
    let told = r#"{"return": [
        {"name": "lo", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}]},
        {"name": "eth0", "hardware-address": "02:42:00:00:00:07", "ip-addresses": [
            {"ip-address": "172.17.0.9", "prefix": 16}, {"ip-address": "fe80::1", "prefix": 64},
            {"ip-address": "1.2.3.4", "prefix": 99}, {"ip-address": 7}, null]},
        7]}"#;
    let told = says(&told.replace('\n', ""));
    let serving = guest.serve(b"", vec![told, says(r#"{"return": 7}"#)]);
    let found = guest.agent.interfaces(ORDINARY).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[1].mac.unwrap().to_string(), "02:42:00:00:00:07");
    assert_eq!(found[1].addresses.len(), 2);
    let out: Vec<_> =
        found.iter().flat_map(|one| &one.addresses).filter(|a| a.leads_out()).collect();
    assert_eq!(out.len(), 1);
    assert!(guest.agent.interfaces(ORDINARY).unwrap_err().to_string().contains("list of devices"));
    serving.join().unwrap();
}

#[test]
fn a_windows_is_given_its_answers_and_generalizes_itself_until_it_is_off() {
    let guest = Guest::new();
    let answers = "<unattend>".repeat(4000);
    let serving = guest.serve(
        b"",
        vec![
            says(r#"{"return": {"id": "mswindows", "name": "Microsoft Windows"}}"#),
            says(r#"{"return": 1000}"#),
            says(r#"{"return": {"count": 32768, "eof": false}}"#),
            says(r#"{"return": {"count": 7232, "eof": false}}"#),
            says(r#"{"return": {}}"#),
            says(r#"{"return": {"pid": 7}}"#),
            says(r#"{"return": {"exited": false}}"#),
            says(r#"{"return": {"exited": true, "exitcode": 0}}"#),
        ],
    );
    assert_eq!(guest.agent.system().unwrap(), "mswindows");
    let looks = std::cell::Cell::new(0);
    // It powers itself off after the second look.
    let is_on = || looks.replace(looks.get() + 1) < 2;
    let limit = Duration::from_secs(600);
    sysprep(&guest.agent, Some(&answers), is_on, limit, Duration::ZERO).unwrap();
    let calls = serving.join().unwrap();
    assert_eq!(calls[1]["arguments"]["mode"], "w");
    let text = calls[2]["arguments"]["buf-b64"].as_str().unwrap();
    assert_eq!(STANDARD.decode(text).unwrap(), answers.as_bytes()[..PIECE]);
    assert_eq!(calls[4]["execute"], "guest-file-close");
    let arguments = calls[5]["arguments"]["arg"].to_string();
    assert!(arguments.contains("/generalize") && arguments.contains("/unattend:"), "{arguments}");
}

#[test]
fn a_sysprep_that_fails_or_never_ends_is_told() {
    let started = r#"{"return": {"pid": 7}}"#;
    let guest = Guest::new();
    let failed = r#"{"return": {"exited": true, "exitcode": 31}}"#;
    let serving = guest.serve(b"", vec![says(started), says(failed)]);
    let limit = Duration::from_secs(600);
    let error = sysprep(&guest.agent, None, || true, limit, Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("code 31"), "{error}");
    serving.join().unwrap();

    let guest = Guest::new();
    let serving = guest.serve(b"", vec![says(started), says(r#"{"return": {"exited": false}}"#)]);
    let error = sysprep(&guest.agent, None, || true, Duration::ZERO, Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("still on"), "{error}");
    serving.join().unwrap();

    // Not all of a file was taken.
    let guest = Guest::new();
    let short = vec![
        says(r#"{"return": 1}"#),
        says(r#"{"return": {"count": 1}}"#),
        says(r#"{"return": {}}"#),
    ];
    let serving = guest.serve(b"", short);
    assert!(
        guest.agent.write_file("x", b"long").unwrap_err().to_string().contains("all of a file")
    );
    serving.join().unwrap();
}

#[test]
fn a_thaw_is_asked_for_until_it_is_done_or_the_machine_is_off() {
    let guest = Guest::new();
    let listener = guest.listener.try_clone().unwrap();
    // Ended while it held them still, and ended again; then it is back.
    let ended = thread::spawn(move || (0..2).for_each(|_| drop(listener.accept().unwrap())));
    let later = Instant::now() + Duration::from_secs(600);
    let thawing = || thaw_until(&guest.agent, || true, Some(later), Duration::ZERO);
    let thawed = thread::scope(|scope| {
        let thawed = scope.spawn(thawing);
        ended.join().unwrap();
        guest.serve(b"", vec![says(r#"{"return": 3}"#)]).join().unwrap();
        thawed.join().unwrap()
    });
    assert_eq!(thawed, Some(3));

    let gone = QemuGa { is_there: Box::new(|| false), ..guest.agent };
    let looks = std::cell::Cell::new(0);
    let is_on = || looks.replace(looks.get() + 1) < 3;
    assert_eq!(thaw_until(&gone, is_on, None, Duration::ZERO), None);
    assert_eq!(looks.get(), 4);
    assert_eq!(thaw_until(&gone, || true, Some(Instant::now()), Duration::ZERO), None);
}
