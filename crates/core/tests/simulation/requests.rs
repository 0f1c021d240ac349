//! The requests: they ask for tokens, wait, are cancelled, and reject tokens.

use std::sync::Arc;

use entra_exchange_core::broker::{CachedToken, RejectedToken, RequiredLifetime, StreamId, TokenLookup};
use entra_exchange_core::decision::ConfigPath;
use entra_exchange_core::entra::TokenKey;
use sha2::{Digest as _, Sha256};

use crate::entra;
use crate::judge::{Life, Rejects};
use crate::vm::{RequestedToken, Vm, shown};
use crate::world::{SimulatedEvent, World};

impl World {
    pub(crate) fn handle_request(&self, vm: usize, index: usize, need: RequiredLifetime) {
        let stream = StreamId(self.number() as u32);
        let mut state = self.vms[vm].borrow_mut();
        let life = (vm, state.generation);
        let spec = Arc::clone(&state.specs[index]);
        let waiting = state.streams.len();
        let (stale, rejects) = self.stale(&state, spec.key());
        let began = self.judge.borrow().publications;
        let waits = stale.is_some() || !self.chance(self.plan.unwaiting);
        let (answer, lines) = self.act(vm, &mut state, |driver, now, host| {
            if waits {
                return Some(driver.request_token(&spec, need, stale, stream, now, host));
            }
            driver.prefetch(&spec, now, host);
            None
        });
        let seen = state.handed_out.get(&spec.key()).and_then(|issued| entra::number_of(issued.token().expose()));
        self.rejects(vm, spec.key(), seen, &lines);
        self.note(vm, || {
            let gets = match &answer {
                None => "nothing, and does not wait".to_owned(),
                Some(TokenLookup::Pending) => "nothing yet".to_owned(),
                Some(TokenLookup::Ready(issued)) => shown(Ok(issued)),
                Some(TokenLookup::Failed(problem)) => shown(Err(problem)),
            };
            format!("  {stream:?} gets {gets}")
        });
        match answer {
            None => {}
            Some(TokenLookup::Ready(issued)) => {
                self.judge.borrow_mut().uses(spec.key(), &self.clock);
                self.hand_out(&mut state, life, &RequestedToken { spec, rejects }, issued)
            }
            Some(TokenLookup::Failed(problem)) => {
                let requested = RequestedToken { spec, rejects };
                let mut judge = self.judge.borrow_mut();
                let unseen = began..judge.publications;
                judge.refuses(&requested, &problem, (life, waiting), &unseen, &self.clock);
            }
            Some(TokenLookup::Pending) => {
                state.streams.insert(stream, RequestedToken { spec, rejects });
                self.judge.borrow_mut().waits(life, stream, self.clock.steady(), state.stalled);
                if self.chance(self.plan.leaves) {
                    let at = self.clock.steady() + self.draw(0, 2_000);
                    self.put(at, vm, SimulatedEvent::Leaves { generation: life.1, stream });
                }
            }
        }
    }

    /// The token that a caller rejects: the one that was handed out last, or the cached one.
    fn stale(&self, state: &Vm, key: TokenKey) -> (Option<RejectedToken>, Rejects) {
        if !self.chance(self.plan.stale) {
            return (None, Rejects::Nothing);
        }
        match state.handed_out.get(&key).map(|issued| issued.token()) {
            Some(token) if self.chance(50) => {
                let number = entra::number_of(token.expose()).unwrap_or(usize::MAX);
                (Some(RejectedToken::Digest(Sha256::digest(token.expose()).into())), Rejects::Token(number))
            }
            _ => (Some(RejectedToken::Cached), Rejects::Any),
        }
    }

    pub(crate) fn hand_out(
        &self,
        state: &mut Vm,
        (vm, generation): Life,
        requested: &RequestedToken,
        issued: Arc<CachedToken>,
    ) {
        self.judge.borrow_mut().hand_out(requested, &issued, state.stalled_until, &self.clock);
        let key = requested.spec.key();
        state.handed_out.insert(key, issued);
        if self.clock.steady() < self.plan.end && self.chance(self.plan.rejected) {
            let at = self.clock.steady() + self.draw(1, 200);
            self.put(at, vm, SimulatedEvent::Rejected { generation, key });
        }
    }

    pub(crate) fn leaves(&self, (vm, generation): Life, stream: StreamId) {
        let mut state = self.vms[vm].borrow_mut();
        if state.generation == generation && state.streams.remove(&stream).is_some() {
            state.driver.forget(stream);
            self.judge.borrow_mut().stops_waiting((vm, generation), stream);
        }
    }

    /// The upstream rejects the token that was handed out last with 401.
    pub(crate) fn rejected(&self, (vm, generation): Life, key: TokenKey) {
        let mut state = self.vms[vm].borrow_mut();
        let Some(issued) = state.handed_out.get(&key).filter(|_| state.generation == generation).cloned() else {
            return;
        };
        let Some(spec) = state.specs.iter().find(|spec| spec.key() == key).cloned() else { return };
        let by = ConfigPath::Destination(0);
        let ((), lines) = self.act(vm, &mut state, |driver, now, host| driver.reject(&spec, &issued, &by, now, host));
        self.rejects(vm, key, entra::number_of(issued.token().expose()), &lines);
    }

    /// Checks the line of a rejection, if there is one.
    fn rejects(&self, vm: usize, key: TokenKey, number: Option<usize>, lines: &[String]) {
        for line in lines {
            self.note(vm, || format!("  {line}"));
            let mut judge = self.judge.borrow_mut();
            judge.must(line.starts_with("event=rejected "), "readable", || format!("{line:?} is unexpected"));
            judge.marks(key, number, &self.clock);
        }
    }
}
