//! What a relayed G.711 call costs the bridge's WebRTC side: CPU time of one hub that carries many calls, each
//! sending and receiving 50 packets per second, set beside the 0.155 % of a core that a bare str0m relay took.
//!
//! `cargo bench -p ahoy-bridge --bench rtc_relay -- [CALLS] [SECONDS]`

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_bridge::rtc::{Encoding, RtcCall, RtcConfig, RtcEvent, RtcHub, RtcLeg, RtpPacket, RtpSink};
use ahoy_proto::time::Entropy;
use tokio::runtime::{Builder, Runtime};

struct Numbers(Mutex<u64>);

impl Entropy for Numbers {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().expect("nothing panics while it holds this");
        for byte in bytes {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    }
}

struct Echo(Arc<RtcCall>);

impl RtpSink for Echo {
    fn rtp(&self, packet: RtpPacket<'_>) {
        self.0.rtp(packet);
    }
}

/// One thread, so that its CPU time is the hub's.
fn runtime(name: &str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).thread_name(name).enable_all().build().expect("a thread")
}

fn hub(runtime: &Runtime, bind: &str, seed: u64) -> RtcHub {
    let _inside = runtime.enter();
    let bind: SocketAddr = bind.parse().expect("an address");
    let entropy = Arc::new(Numbers(Mutex::new(seed)));
    RtcHub::bind(RtcConfig { bind, stun: None, max_calls: 10_000, entropy }).expect("a free port")
}

/// CPU seconds of the thread with this name, from its `stat` file (Linux, 100 ticks per second).
fn cpu_seconds(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let ticks: u64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter(|stat| stat.contains(&format!("({name})")))
        .filter_map(|stat| {
            // After the name: state, ten fields, then user and system time (proc(5), fields 14 and 15).
            let times = stat.rsplit(')').next()?.split_whitespace().skip(11).take(2);
            Some(times.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>())
        })
        .sum();
    ticks as f64 / 100.0
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let calls = numbers.first().copied().unwrap_or(50);
    let seconds = numbers.get(1).copied().unwrap_or(10);
    let (bridge, load) = (runtime("bridge"), runtime("load"));
    let (answering, offering) = (hub(&bridge, "127.0.0.1:0", 1), hub(&load, "127.0.0.2:0", 2));
    let (handle, load_handle) = (bridge.handle().clone(), load.handle().clone());
    let mut carried = Vec::new();
    let mut sources = Vec::new();
    let started = tokio::time::Instant::now();
    for _ in 0..calls {
        let (source, mut events, offer) =
            load_handle.block_on(offering.offer(&[Encoding::Pcma])).expect("an offer");
        let (call, _events, answer) =
            handle.block_on(answering.answer(&offer, &[Encoding::Pcma])).expect("an answer");
        let call = Arc::new(call);
        call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
        source.accept_answer(&answer).expect("an answer with media");
        load_handle
            .block_on(async { while events.next().await.expect("the call lives") != RtcEvent::Connected {} });
        carried.push(call);
        sources.push(source);
    }
    let set_up = started.elapsed() / u32::try_from(calls).expect("few calls");
    let before = (cpu_seconds("bridge"), answering_packets(&carried));
    load_handle.block_on(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for tick in 0..seconds * 50 {
            ticks.tick().await;
            for source in &sources {
                source.rtp(RtpPacket {
                    encoding: Encoding::Pcma,
                    ssrc: 1,
                    sequence: (tick % 65_536) as u16,
                    timestamp: (tick * 160) as u32,
                    marker: tick == 0,
                    payload: &[0xd5; 160],
                });
            }
        }
    });
    let after = (cpu_seconds("bridge"), answering_packets(&carried));
    let cpu = after.0 - before.0;
    println!(
        "{calls} calls, {seconds} s: {} packets relayed, {cpu:.2} CPU-seconds, {:.3} % of a core per call; \
         set-up of a call, both ends: {set_up:?}",
        after.1 - before.1,
        100.0 * cpu / seconds as f64 / calls as f64,
    );
    load_handle.block_on(offering.close());
    handle.block_on(answering.close());
}

fn answering_packets(calls: &[Arc<RtcCall>]) -> u64 {
    calls.iter().map(|call| call.stats().packets_in).sum()
}
