//! A proxy inside of another program: it sees every event itself and reaches Telegram in its own way.
//!
//! Usage: cargo run --example embed [HOST [BIND]]

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mtg::{Config, DcId, Dial, Dialled, Dialling, Event, Hooks, Observer, Proxy, Secret};
use smol::future::FutureExt as _;

/// Prints what happens.
struct Print;

impl Observer for Print {
    fn observe(&self, event: &Event) {
        println!("{event:?}");
    }
}

/// Goes directly, and says so. A program with a tunnel of its own would put it here.
struct Direct;

impl Dial for Direct {
    fn telegram<'a>(&'a self, dc: DcId, addresses: &'a [SocketAddr]) -> Dialling<'a> {
        Box::pin(async move {
            println!("dialling DC {dc} at {addresses:?}");
            let mut last = io::ErrorKind::NotFound.into();
            for &address in addresses {
                match connect(address).await {
                    Ok(stream) => return Ok(Dialled { stream, address }),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }

    fn front<'a>(&'a self, host: &'a str, port: u16) -> Dialling<'a> {
        Box::pin(async move {
            let addresses = smol::net::resolve((host, port)).await?;
            let &address = addresses.first().ok_or(io::ErrorKind::NotFound)?;
            Ok(Dialled { stream: connect(address).await?, address })
        })
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let connected = async { smol::Async::<TcpStream>::connect(address).await?.into_inner() };
    let late = async {
        smol::Timer::after(Duration::from_secs(3)).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    connected.or(late).await
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| "www.example.com".to_owned());
    let bind_to = arguments.next().unwrap_or_else(|| "127.0.0.1:3128".to_owned()).parse()?;
    let mut key = [0; 16];
    getrandom::fill(&mut key)?;
    let secret = Secret::new(key, &host)?;
    println!("tg://proxy?server={}&port={}&secret={}", bind_to_ip(bind_to), bind_to.port(), secret.to_base64());

    let mut config = Config::new(secret, bind_to);
    config.shutdown_grace = Duration::from_secs(1);
    let proxy = Proxy::with(config, Hooks { observer: Some(Arc::new(Print)), dial: Some(Arc::new(Direct)) })?;
    smol::block_on(async {
        let hour = smol::Timer::after(Duration::from_secs(60 * 60));
        let over = async {
            hour.await;
        };
        proxy.serve().or(over).await;
        proxy.shutdown().await;
    });
    Ok(())
}

fn bind_to_ip(bind_to: SocketAddr) -> String {
    bind_to.ip().to_string().replace(':', "%3A")
}
