//! The guest agent: PID 1 of the utility VM.
