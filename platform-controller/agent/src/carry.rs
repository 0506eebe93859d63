//! Connections of another host's VMs to the relay on this one: some are parked at the agent in advance.

use crate::{
    link::Dialer,
    parking::RELAY,
    wire::{Greeting, Purpose, receive},
};
use std::{sync::Arc, time::Duration};
use tokio::{io::copy_bidirectional, net::UnixStream, sync::Semaphore, task::JoinSet, time::sleep};

/// Connections that wait at the agent.
const PARKED: usize = 4;
/// Connections of one host at a time: more than any has VMs.
const CARRIED: usize = 4096;
/// Between two tries.
const RETRY: Duration = Duration::from_millis(200);

/// Parks connections until the set is dropped; those that VMs use by then go on.
pub(crate) fn start(dialer: &Dialer) -> JoinSet<()> {
    let places = Arc::new(Semaphore::new(CARRIED));
    let mut set = JoinSet::new();
    for _ in 0..PARKED {
        set.spawn(park(dialer.clone(), places.clone()));
    }
    set
}

async fn park(dialer: Dialer, places: Arc<Semaphore>) {
    loop {
        // Closed never.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let taken = async {
            let mut stream = dialer.dial(Purpose::Park).await?;
            // Comes when a VM does.
            let greeting: Greeting = receive(&mut stream).await?;
            Ok::<_, crate::AgentError>((stream, greeting))
        };
        match taken.await {
            Ok((mut stream, Greeting::Welcome)) => {
                let path = dialer.config.dir.join(RELAY);
                let dialer = dialer.clone();
                tokio::spawn(async move {
                    match UnixStream::connect(&path).await {
                        // However it ends, both ends see it.
                        Ok(mut relay) => tokio::select! {
                            _ = copy_bidirectional(&mut stream, &mut relay) => {}
                            () = dialer.released() => {}
                        },
                        Err(e) => tracing::debug!("{}: {e}", path.display()),
                    }
                    drop(place);
                });
            }
            Ok((_, Greeting::Refused(why) | Greeting::Absent(why))) => {
                tracing::warn!("host {}: {why}", dialer.config.host);
                sleep(RETRY).await;
            }
            Err(e) => {
                tracing::debug!("host {}: {e}", dialer.config.host);
                sleep(RETRY).await;
            }
        }
    }
}
