//! From a name to its verified card: warm, cold, and cold with the validation chain known.

use tokio::time::{Duration, Instant};

use super::{Times, in_world, print_row};
use crate::{layout::BANK, sdk};

const WARM: Duration = Duration::from_secs(2);
const COLD: usize = 40;

/// Resolves the company's name, over the real DNS server, as a client does.
///
/// # Errors
/// When it cannot be resolved.
pub async fn run() -> anyhow::Result<()> {
    in_world("resolve", async |world| {
        world.start_homeservers().await?;
        let name = sdk::address(BANK)?.name().clone();
        let mut cold = Times::default();
        for round in 0..COLD {
            let network = sdk::network(world, &format!("resolve-{round}"), world.addresses.client).await?;
            let begun = Instant::now();
            network.resolve(&name).await?;
            cold.add(begun.elapsed());
            network.close().await;
        }
        print_row(
            "resolution, cold",
            &cold.summary(),
            "part of a cold call: < 150 ms in all",
            "fresh process state: TXT, A, DNSKEY and DS over loopback, validation, card over QUIC",
        );

        let network = sdk::network(world, "resolve-known", world.addresses.client).await?;
        let mut again = Times::default();
        for _ in 0..COLD {
            let begun = Instant::now();
            let explained = network.explain(&name).await;
            again.add(begun.elapsed());
            explained.outcome?;
        }
        print_row(
            "resolution, forced anew, zone keys known",
            &again.summary(),
            "-",
            "`explain`: every look-up and the card again, DNSKEYs cached",
        );

        network.resolve(&name).await?;
        let (begun, mut count, mut warm) = (Instant::now(), 0_u64, Times::default());
        while begun.elapsed() < WARM {
            for _ in 0..1000 {
                std::hint::black_box(network.resolve(&name).await?);
            }
            let one = Instant::now();
            std::hint::black_box(network.resolve(&name).await?);
            warm.add(one.elapsed());
            count += 1001;
        }
        let per_second = count as f64 / begun.elapsed().as_secs_f64();
        print_row(
            "resolution, warm",
            &format!("{per_second:.0}/s on one core, p99 {:.4} ms", warm.quantile_ms(0.99)),
            "off the hot path: no look-up",
            "own cache, through the SDK with its deadline timer",
        );
        network.close().await;
        Ok(())
    })
    .await
}
