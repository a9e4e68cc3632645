//! The one host executable: picks the personality.
fn main() {}
