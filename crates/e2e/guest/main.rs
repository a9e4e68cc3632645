//! The talker as a program for guests: `talker serve PORT`, `talker scan HOSTS FIRST LAST`, or one
//! of [`talker::talk`]'s, which prints its seconds.

mod talker;

use std::time::Duration;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("serve") => {
            talker::serve(&format!("0.0.0.0:{}", words[1])).expect("listen");
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        Some("scan") => {
            let number = |at: usize| words[at].parse().expect("a port");
            println!("{:?}", talker::scan(&words[1], number(2)..=number(3)));
        }
        _ => match talker::talk(&words) {
            Ok(took) => println!("{}", took.as_secs_f64()),
            Err(error) => {
                eprintln!("{words:?}: {error}");
                std::process::exit(1);
            }
        },
    }
}
