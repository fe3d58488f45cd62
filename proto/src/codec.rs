//! The codec of all our services: protobuf by prost, into buffers as large as the message.
//!
//! prost writes field by field into a buffer that doubles when it is full. A response with a batch of
//! one MiB filled a buffer of that size to the last byte, and the next field, two bytes, made it two:
//! copied once more, and twice the memory that was accounted for, until a slow reader took it.

use std::{fmt, marker::PhantomData};

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Encodes `T`, decodes `U`.
pub struct SizedCodec<T, U>(PhantomData<(T, U)>);

/// Encodes `T`.
pub struct SizedEncoder<T>(PhantomData<T>);

// === impl SizedCodec ===

impl<T, U> Default for SizedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SizedCodec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> SizedEncoder<T> {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::default())
    }
}

impl<T, U> fmt::Debug for SizedCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SizedCodec")
    }
}

// === impl SizedEncoder ===

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.encoded_len());
        // `encode` would work out the length once more, for an error that a growing buffer never has.
        item.encode_raw(buf);
        Ok(())
    }
}

impl<T> fmt::Debug for SizedEncoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SizedEncoder")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::{Context, Poll, Waker},
    };

    use http_body::Body;
    use prost::{
        DecodeError,
        bytes::{Buf, BufMut},
        encoding::{DecodeContext, WireType},
    };
    use tonic::codec::EncodeBody;

    use super::*;

    const BYTES: usize = 1_000_000;
    static ROOM: AtomicUsize = AtomicUsize::new(0);

    /// Notes the room it finds.
    #[derive(Debug, Default)]
    struct Large;

    impl Message for Large {
        fn encode_raw(&self, buf: &mut impl BufMut) {
            ROOM.store(buf.chunk_mut().len(), Relaxed);
            buf.put_bytes(0, BYTES);
        }

        fn encoded_len(&self) -> usize {
            BYTES
        }

        fn merge_field(
            &mut self,
            _: u32,
            _: WireType,
            _: &mut impl Buf,
            _: DecodeContext,
        ) -> Result<(), DecodeError> {
            Ok(())
        }

        fn clear(&mut self) {}
    }

    #[test]
    fn a_message_finds_room_for_all_of_it_and_not_for_two() {
        let encoder = SizedCodec::<Large, Large>::default().encoder();
        let messages = futures::stream::iter([Ok(Large)]);
        let mut body = pin!(EncodeBody::new_client(encoder, messages, None, None));
        let frame = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = frame else { panic!("{frame:?}") };
        // Five bytes say how long it is.
        assert_eq!(frame.data_ref().map(|data| data.len()), Some(BYTES + 5));
        let room = ROOM.load(Relaxed);
        assert!((BYTES..BYTES * 3 / 2).contains(&room), "{room} bytes of room");
    }
}
