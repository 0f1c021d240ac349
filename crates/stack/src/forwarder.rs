//! A TCP forwarder between Envoy and a server that can drop connections like a NAT gateway or a firewall.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What happens when a client sends on a dropped connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropMode {
    /// The client gets a TCP RST, as from a stateful firewall.
    Reset,
    /// The client gets no reply, as when packets are dropped.
    Silence,
}

/// Forwards TCP connections from its port to a server, and drops connections on request. A client does not notice that its
/// connection was dropped until it sends something. The forwarder stops when its value is dropped.
#[derive(Debug)]
pub struct Forwarder {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    /// The number of accepted connections; their ids are below it.
    accepted: u64,
    /// The ids of the dropped connections.
    dropped: BTreeSet<u64>,
    mode: DropMode,
    /// The idle time after which a connection is dropped.
    idle_timeout: Option<Duration>,
}

impl Forwarder {
    /// Starts on a free port of the loopback interface. Call [`Self::set_target`] before the first connection.
    ///
    /// # Errors
    /// When no free port or thread is available.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            target: addr,
            accepted: 0,
            dropped: BTreeSet::new(),
            mode: DropMode::Reset,
            idle_timeout: None,
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = thread::Builder::new().name("forwarder".to_owned()).spawn(move || {
            runtime.spawn(async {
                if let Err(error) = accept(listener, shared).await {
                    eprintln!("forwarder: {error}");
                }
            });
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { addr, state, stop: Some(stop), thread: Some(thread) })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the server for new connections.
    pub fn set_target(&self, target: SocketAddr) {
        lock(&self.state).target = target;
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> u64 {
        lock(&self.state).accepted
    }

    /// Drops all current connections.
    pub fn drop_connections(&self, mode: DropMode) {
        let mut state = lock(&self.state);
        state.dropped = (0..state.accepted).collect();
        state.mode = mode;
    }

    /// Drops every connection that has been idle for this time.
    pub fn drop_idle_after(&self, idle_timeout: Duration, mode: DropMode) {
        let mut state = lock(&self.state);
        state.idle_timeout = Some(idle_timeout);
        state.mode = mode;
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: std::net::TcpListener, state: Arc<Mutex<State>>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        let (id, target) = {
            let mut state = lock(&state);
            state.accepted += 1;
            (state.accepted - 1, state.target)
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // The tests check broken connections on Envoy's side.
            if let Ok(server) = TcpStream::connect(target).await {
                let _ = forward(client, server, id, &state).await;
            }
        });
    }
}

/// Forwards one connection in both directions until either side closes it.
async fn forward(client: TcpStream, server: TcpStream, id: u64, state: &Arc<Mutex<State>>) -> io::Result<()> {
    let flow = Flow { id, state: Arc::clone(state), last_activity: Mutex::new(Instant::now()) };
    let (mut up, mut down) = (pin!(forward_up(&client, &server, &flow)), pin!(forward_down(&server, &client, &flow)));
    poll_fn(|context| match up.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending => down.as_mut().poll(context),
    })
    .await
}

async fn forward_up(client: &TcpStream, server: &TcpStream, flow: &Flow) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let sent = read(client, &mut buffer).await?;
        match flow.record_activity() {
            _ if sent == 0 => return Ok(()),
            Some(DropMode::Reset) => return client.set_zero_linger(),
            Some(DropMode::Silence) => {}
            None => write(server, buffer.get(..sent).unwrap_or_default()).await?,
        }
    }
}

async fn forward_down(server: &TcpStream, client: &TcpStream, flow: &Flow) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let received = read(server, &mut buffer).await?;
        match (flow.record_activity(), received) {
            (None, 0) => return Ok(()),
            (None, received) => write(client, buffer.get(..received).unwrap_or_default()).await?,
            // Nothing that the server sends reaches the client, including its FIN.
            (Some(_), 0) => std::future::pending().await,
            (Some(_), _) => {}
        }
    }
}

async fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => bytes = bytes.get(written?..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The state of a forwarded connection.
struct Flow {
    id: u64,
    state: Arc<Mutex<State>>,
    last_activity: Mutex<Instant>,
}

impl Flow {
    /// Records activity on the connection. Returns the drop mode when the connection has been dropped.
    fn record_activity(&self) -> Option<DropMode> {
        let mut state = lock(&self.state);
        let mut last_activity = self.last_activity.lock().unwrap_or_else(PoisonError::into_inner);
        if state.idle_timeout.is_some_and(|timeout| last_activity.elapsed() >= timeout) {
            state.dropped.insert(self.id);
        }
        *last_activity = Instant::now();
        state.dropped.contains(&self.id).then_some(state.mode)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    /// Starts an echo server behind a forwarder.
    fn echo() -> (Forwarder, std::net::TcpListener) {
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let accepting = server.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                let mut copy = stream.try_clone().unwrap();
                thread::spawn(move || io::copy(&mut stream, &mut copy));
            }
        });
        let forwarder = Forwarder::start().unwrap();
        forwarder.set_target(server.local_addr().unwrap());
        (forwarder, server)
    }

    fn connect(forwarder: &Forwarder) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(forwarder.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream
    }

    fn exchange(stream: &mut std::net::TcpStream) -> io::Result<u8> {
        let mut reply = [0];
        stream.write_all(b"x")?;
        stream.read_exact(&mut reply).map(|()| reply[0])
    }

    #[test]
    fn a_connection_is_forwarded_until_it_is_dropped_and_a_new_one_is_forwarded_again() {
        let (forwarder, _server) = echo();
        for (mode, error) in [(DropMode::Reset, ErrorKind::ConnectionReset), (DropMode::Silence, ErrorKind::WouldBlock)]
        {
            let mut old = connect(&forwarder);
            assert_eq!(exchange(&mut old).unwrap(), b'x');
            forwarder.drop_connections(mode);
            assert_eq!(exchange(&mut old).unwrap_err().kind(), error);
            assert_eq!(exchange(&mut connect(&forwarder)).unwrap(), b'x');
        }
        assert_eq!(forwarder.connections(), 4);
    }

    #[test]
    fn a_connection_that_is_idle_for_too_long_is_dropped() {
        let (forwarder, _server) = echo();
        forwarder.drop_idle_after(Duration::from_millis(200), DropMode::Reset);
        let mut stream = connect(&forwarder);
        assert_eq!(exchange(&mut stream).unwrap(), b'x');
        thread::sleep(Duration::from_millis(250));
        assert_eq!(exchange(&mut stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
