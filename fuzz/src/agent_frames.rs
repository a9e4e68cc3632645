//! What a guest's agent says to its shim.

use ireko_protocol::agent::GuestMessage;
use ireko_protocol::frame::{FrameDecoder, FrameKind, HEADER_LEN, MAX_DATA, MAX_MESSAGE};

/// The first byte says in which pieces the rest arrives.
pub fn run(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::default();
    let mut taken = 0;
    for bytes in stream.chunks(usize::from(*piece).max(1)) {
        decoder.feed(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    taken += HEADER_LEN + frame.payload.len();
                    assert_eq!(
                        frame.credit_bytes().is_some(),
                        is_credit(&frame.kind, &frame.payload)
                    );
                    match frame.kind {
                        FrameKind::Message => {
                            assert!(frame.payload.len() <= MAX_MESSAGE);
                            drop(frame.parse::<GuestMessage>());
                        }
                        _ => assert!(frame.payload.len() <= MAX_DATA),
                    }
                    assert_eq!(frame.encode().len(), HEADER_LEN + frame.payload.len());
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(taken <= stream.len(), "{taken} bytes out of {}", stream.len());
}

fn is_credit(kind: &FrameKind, payload: &[u8]) -> bool {
    *kind == FrameKind::Credit && payload.len() == 4
}
