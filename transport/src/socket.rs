//! One UDP port for QUIC and STUN: STUN requests are answered here, the rest of the noise is dropped,
//! and QUIC datagrams pass to quinn untouched (RFC 9443).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::Instant;

use crate::admission::ReplyBudget;
use crate::stun;

/// A quinn socket that takes STUN out of the stream of datagrams.
#[derive(Debug)]
pub(crate) struct SharedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    budget: Mutex<ReplyBudget>,
    writable: Mutex<Pin<Box<dyn UdpPoller>>>,
    // Whether sending was possible when last tried. tokio says `WouldBlock` to the first send on a fresh
    // socket until somebody has waited for it to become writable.
    primed: AtomicBool,
}

impl SharedSocket {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, budget: ReplyBudget) -> Self {
        let writable = Mutex::new(inner.clone().create_io_poller());
        Self { inner, budget: Mutex::new(budget), writable, primed: AtomicBool::new(false) }
    }

    fn prime(&self, cx: &mut Context<'_>) {
        if self.primed.load(Ordering::Relaxed) {
            return;
        }
        let mut poller = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        if poller.as_mut().poll_writable(cx).is_ready() {
            self.primed.store(true, Ordering::Relaxed);
        }
    }

    /// Answers what is STUN in one receive buffer and shortens `meta` to what is QUIC.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let whole = meta.len.min(buffer.len());
        if buffer[..whole].chunks(stride).all(|datagram| stun::is_quic(datagram[0])) {
            return;
        }
        // Kept segments move up. Only the last may be shorter than the stride, so boundaries hold.
        let mut kept = 0;
        let mut start = 0;
        while start < whole {
            let end = (start + stride).min(whole);
            if stun::is_quic(buffer[start]) {
                buffer.copy_within(start..end, kept);
                kept += end - start;
            } else if stun::is_stun(buffer[start]) {
                self.reply(&buffer[start..end], meta);
            }
            start = end;
        }
        meta.len = kept;
    }

    fn reply(&self, datagram: &[u8], meta: &RecvMeta) {
        let Some(contents) = stun::answer(datagram, meta.addr) else { return };
        let allowed = {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.allow(meta.addr.ip(), Instant::now())
        };
        if !allowed {
            return;
        }
        let transmit = Transmit {
            destination: meta.addr,
            ecn: None,
            contents: &contents,
            segment_size: None,
            src_ip: meta.dst_ip,
        };
        // A lost answer costs the client a retransmission; waiting would cost everybody.
        if self.inner.try_send(&transmit).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            self.primed.store(false, Ordering::Relaxed);
        }
    }
}

impl AsyncUdpSocket for SharedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.prime(cx);
        let count = ready!(self.inner.poll_recv(cx, buffers, metas))?;
        for (buffer, meta) in buffers.iter_mut().zip(metas).take(count) {
            self.sort(buffer, meta);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(len: usize, stride: usize) -> RecvMeta {
        RecvMeta { addr: "127.0.0.1:9".parse().expect("an address"), len, stride, ..Default::default() }
    }

    fn sort(buffer: &mut [u8], stride: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inner = quinn::Runtime::wrap_udp_socket(&quinn::TokioRuntime, socket).unwrap();
        let shared = SharedSocket::new(inner, ReplyBudget::new(1, 1));
        let mut meta = meta(buffer.len(), stride);
        shared.sort(buffer, &mut meta);
        buffer[..meta.len].to_vec()
    }

    #[test]
    fn segments_that_are_not_quic_leave_a_coalesced_buffer() {
        let mut mixed = [0xC0, 1, 1, 0x00, 9, 9, 0x40, 2, 2, 0x80, 9, 9, 0xFF, 3];
        assert_eq!(sort(&mut mixed, 3), [0xC0, 1, 1, 0x40, 2, 2, 0xFF, 3]);
    }

    #[test]
    fn a_buffer_of_quic_alone_is_untouched_and_one_of_noise_is_emptied() {
        let mut quic = [0x40, 1, 0xC0, 2, 0x7F];
        assert_eq!(sort(&mut quic, 2), [0x40, 1, 0xC0, 2, 0x7F]);
        assert!(sort(&mut [0x80, 1, 0x04, 2], 2).is_empty());
        assert!(sort(&mut [], 0).is_empty());
    }
}
