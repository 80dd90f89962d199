//! Where the messages of a gRPC-Web response begin and end.
//!
//! Trailers are a part of the body in gRPC-Web, so they can be added only between two messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The bit of a frame's first byte that says that the frame contains trailers.
pub(super) const TRAILERS: u8 = 0x80;

/// The encoding of a gRPC-Web body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WebEncoding {
    Binary,
    /// Base64, in segments that may each be padded.
    Base64,
}

/// The position in the body of a gRPC-Web response.
#[derive(Debug)]
pub(super) struct MessageBoundary {
    encoding: WebEncoding,
    /// The characters of base64 that are not decoded yet: fewer than four.
    characters: Vec<u8>,
    /// The part of the current frame's prefix that was sent: a byte of flags and four of the length. Fewer than five bytes.
    prefix: Vec<u8>,
    /// The bytes of the current frame that were not sent yet.
    remaining: u64,
    found: Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Only messages so far.
    Messages,
    /// The frame with the trailers has begun.
    Trailers,
    /// The body is not valid base64, so it is not known where a message ends.
    Garbage,
}

impl MessageBoundary {
    pub(super) fn new(encoding: WebEncoding) -> Self {
        Self {
            encoding,
            characters: Vec::new(),
            prefix: Vec::new(),
            remaining: 0,
            found: Found::Messages,
        }
    }

    /// Returns whether trailers have begun.
    pub(super) fn has_trailers(&self) -> bool {
        self.found == Found::Trailers
    }

    /// Returns whether another frame can begin here.
    pub(super) fn is_between_messages(&self) -> bool {
        self.found == Found::Messages
            && self.remaining == 0
            && self.prefix.is_empty()
            && self.characters.is_empty()
    }

    /// Advances by data of the body.
    pub(super) fn advance(&mut self, data: &[u8]) {
        match self.encoding {
            WebEncoding::Binary => self.advance_decoded(data),
            WebEncoding::Base64 => self.advance_base64(data),
        }
    }

    fn advance_base64(&mut self, data: &[u8]) {
        let mut decoded = [0; 3];
        for character in data.iter().filter(|byte| !byte.is_ascii_whitespace()) {
            self.characters.push(*character);
            if self.characters.len() < 4 {
                continue;
            }
            let length = STANDARD.decode_slice(&self.characters, &mut decoded);
            self.characters.clear();
            match length.ok().and_then(|length| decoded.get(..length)) {
                Some(decoded) => self.advance_decoded(decoded),
                None => self.found = Found::Garbage,
            }
        }
    }

    fn advance_decoded(&mut self, mut data: &[u8]) {
        while self.found == Found::Messages && !data.is_empty() {
            if self.remaining > 0 {
                let sent = self.remaining.min(data.len() as u64);
                self.remaining -= sent;
                data = data.get(sent as usize..).unwrap_or_default();
                continue;
            }
            let missing = 5_usize.saturating_sub(self.prefix.len()).min(data.len());
            let (part, rest) = data.split_at(missing);
            self.prefix.extend_from_slice(part);
            data = rest;
            if self
                .prefix
                .first()
                .is_some_and(|flags| flags & TRAILERS != 0)
            {
                self.found = Found::Trailers;
            }
            if let [_, a, b, c, d] = *self.prefix {
                self.remaining = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.prefix.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let prefix = (length as u32).to_be_bytes();
        [&[0], &prefix[..], &vec![b'x'; length]].concat()
    }

    fn trailers() -> Vec<u8> {
        [&[TRAILERS, 0, 0, 0, 15][..], b"grpc-status:0\r\n"].concat()
    }

    /// Returns the positions of a body between messages, if it is sent in pieces of `size` bytes.
    fn boundaries(encoding: WebEncoding, body: &[u8], size: usize) -> Vec<usize> {
        let mut boundary = MessageBoundary::new(encoding);
        let mut sent = 0;
        let mut found = Vec::new();
        for piece in body.chunks(size) {
            boundary.advance(piece);
            sent += piece.len();
            if boundary.is_between_messages() {
                found.push(sent);
            }
        }
        found
    }

    #[test]
    fn a_frame_can_begin_only_between_messages() {
        let body = [message(3), message(0), message(300), trailers()].concat();
        assert_eq!(boundaries(WebEncoding::Binary, &body, 1), [8, 13, 318]);
        assert_eq!(boundaries(WebEncoding::Binary, &body, 2), [8, 318]);
        assert!(boundaries(WebEncoding::Binary, &body, body.len()).is_empty());
    }

    #[test]
    fn base64_is_decoded_across_pieces_and_with_padding_within() {
        let (first, second) = (STANDARD.encode(message(2)), STANDARD.encode(message(4)));
        let body = format!("{first}{second}{}", STANDARD.encode(trailers()));
        let ends = [first.len(), first.len() + second.len()];
        assert_eq!(boundaries(WebEncoding::Base64, body.as_bytes(), 1), ends);
        // One segment for several messages: a message may end within four characters.
        let body = STANDARD.encode([message(2), message(2), message(2)].concat());
        assert_eq!(boundaries(WebEncoding::Base64, body.as_bytes(), 1), [28]);
    }

    #[test]
    fn trailers_are_recognized_from_their_first_byte() {
        let mut boundary = MessageBoundary::new(WebEncoding::Binary);
        boundary.advance(&message(3));
        assert!(!boundary.has_trailers());
        boundary.advance(&trailers()[..1]);
        assert!(boundary.has_trailers());
        assert!(!boundary.is_between_messages());
    }

    #[test]
    fn no_frame_begins_after_data_that_is_not_base64() {
        let mut boundary = MessageBoundary::new(WebEncoding::Base64);
        boundary.advance(b"!!!!");
        assert!(!boundary.is_between_messages());
    }
}
