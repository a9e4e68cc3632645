//! A real terminal around a program, as a person has one.

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(600);

/// A program on a pty.
pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    screen: Receiver<Vec<u8>>,
    seen: String,
    child: Box<dyn Child + Send + Sync>,
}

impl Terminal {
    /// Starts a command on a new terminal of 24 rows and 80 columns.
    pub fn open(command: &Command) -> Self {
        let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("a pty");
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => builder.env(name, value),
                None => builder.env_remove(name),
            }
        }
        let child = pair.slave.spawn_command(builder).expect("start on a pty");
        let mut reader = pair.master.try_clone_reader().expect("the pty's output");
        let keyboard = pair.master.take_writer().expect("the pty's input");
        let (tell, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if tell.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { master: pair.master, keyboard, screen, seen: String::new(), child }
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("type");
        self.keyboard.flush().expect("type");
    }

    /// Changes the window's size.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = PtySize { rows, cols, pixel_width: 0, pixel_height: 0 };
        self.master.resize(size).expect("resize");
    }

    /// Waits until the screen has shown this since the last time something was expected.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} never came; the screen shows {:?}", self.seen),
            }
        }
    }

    /// Waits for the program's end; its exit code.
    #[track_caller]
    pub fn exit_code(mut self) -> u32 {
        let (tell, ended) = mpsc::channel();
        let mut killer = self.child.clone_killer();
        thread::spawn(move || tell.send(self.child.wait()));
        match ended.recv_timeout(DEADLINE) {
            Ok(status) => status.expect("wait").exit_code(),
            Err(_) => {
                // It may have ended this moment.
                let _ = killer.kill();
                panic!("the program does not end; the screen shows {:?}", self.seen);
            }
        }
    }
}
