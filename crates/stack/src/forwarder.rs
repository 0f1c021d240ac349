//! A NAT between Envoy and a server: it forwards connections, and forgets them.

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

/// What a client that sends on a forgotten connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// A TCP RST in place of an answer, as a stateful firewall sends it.
    Reset,
    /// Nothing, as when packets are dropped.
    Silence,
}

/// Forwards TCP connections from a port of its own to one server, and forgets those that it is told to. A client cannot
/// see that its connection was forgotten until it sends something. It stops when dropped.
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
    /// How many connections it has accepted: their numbers are below.
    accepted: u64,
    /// The numbers of the connections that are forgotten.
    forgotten: BTreeSet<u64>,
    how: Forgotten,
    /// A connection on which nothing moves for so long is forgotten.
    after: Option<Duration>,
}

impl Forwarder {
    /// Starts on a free port of the loopback interface; it leads nowhere until [`Self::lead_to`].
    ///
    /// # Errors
    /// When there is no free port or thread.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            target: addr,
            accepted: 0,
            forgotten: BTreeSet::new(),
            how: Forgotten::Reset,
            after: None,
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

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where new connections lead.
    pub fn lead_to(&self, target: SocketAddr) {
        lock(&self.state).target = target;
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        lock(&self.state).accepted
    }

    /// Forgets all connections that there are now.
    pub fn forget(&self, how: Forgotten) {
        let mut state = lock(&self.state);
        state.forgotten = (0..state.accepted).collect();
        state.how = how;
    }

    /// Forgets every connection on which nothing moves for so long.
    pub fn forget_after(&self, idle: Duration, how: Forgotten) {
        let mut state = lock(&self.state);
        state.after = Some(idle);
        state.how = how;
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
        let (number, target) = {
            let mut state = lock(&state);
            state.accepted += 1;
            (state.accepted - 1, state.target)
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // A connection that breaks is what the tests look for, on Envoy's side.
            if let Ok(server) = TcpStream::connect(target).await {
                let _ = carry(client, server, number, &state).await;
            }
        });
    }
}

/// Carries one connection in both directions until either side ends it.
async fn carry(client: TcpStream, server: TcpStream, number: u64, state: &Arc<Mutex<State>>) -> io::Result<()> {
    let flow = Flow { number, state: Arc::clone(state), moved: Mutex::new(Instant::now()) };
    let (mut up, mut down) = (pin!(carry_up(&client, &server, &flow)), pin!(carry_down(&server, &client, &flow)));
    poll_fn(|context| match up.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending => down.as_mut().poll(context),
    })
    .await
}

async fn carry_up(client: &TcpStream, server: &TcpStream, flow: &Flow) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let sent = read(client, &mut buffer).await?;
        match flow.moves() {
            _ if sent == 0 => return Ok(()),
            Some(Forgotten::Reset) => return client.set_zero_linger(),
            Some(Forgotten::Silence) => {}
            None => write(server, buffer.get(..sent).unwrap_or_default()).await?,
        }
    }
}

async fn carry_down(server: &TcpStream, client: &TcpStream, flow: &Flow) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let answered = read(server, &mut buffer).await?;
        match (flow.moves(), answered) {
            (None, 0) => return Ok(()),
            (None, answered) => write(client, buffer.get(..answered).unwrap_or_default()).await?,
            // What the server sends, its FIN too, does not arrive any more.
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

/// A connection, as a NAT remembers it.
struct Flow {
    number: u64,
    state: Arc<Mutex<State>>,
    moved: Mutex<Instant>,
}

impl Flow {
    /// Something moves. Returns how that ends when the connection is forgotten.
    fn moves(&self) -> Option<Forgotten> {
        let mut state = lock(&self.state);
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if state.after.is_some_and(|after| moved.elapsed() >= after) {
            state.forgotten.insert(self.number);
        }
        *moved = Instant::now();
        state.forgotten.contains(&self.number).then_some(state.how)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    /// A server that echoes, behind a forwarder.
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
        forwarder.lead_to(server.local_addr().unwrap());
        (forwarder, server)
    }

    fn connect(forwarder: &Forwarder) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(forwarder.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream
    }

    fn ask(stream: &mut std::net::TcpStream) -> io::Result<u8> {
        let mut answer = [0];
        stream.write_all(b"x")?;
        stream.read_exact(&mut answer).map(|()| answer[0])
    }

    #[test]
    fn a_connection_is_carried_until_it_is_forgotten_and_a_new_one_is_carried_again() {
        let (forwarder, _server) = echo();
        for (how, error) in
            [(Forgotten::Reset, ErrorKind::ConnectionReset), (Forgotten::Silence, ErrorKind::WouldBlock)]
        {
            let mut old = connect(&forwarder);
            assert_eq!(ask(&mut old).unwrap(), b'x');
            forwarder.forget(how);
            assert_eq!(ask(&mut old).unwrap_err().kind(), error);
            assert_eq!(ask(&mut connect(&forwarder)).unwrap(), b'x');
        }
        assert_eq!(forwarder.connections(), 4);
    }

    #[test]
    fn a_connection_that_is_idle_for_too_long_is_forgotten() {
        let (forwarder, _server) = echo();
        forwarder.forget_after(Duration::from_millis(200), Forgotten::Reset);
        let mut stream = connect(&forwarder);
        assert_eq!(ask(&mut stream).unwrap(), b'x');
        thread::sleep(Duration::from_millis(250));
        assert_eq!(ask(&mut stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
