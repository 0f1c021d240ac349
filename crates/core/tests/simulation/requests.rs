//! The requests: they ask for tokens, wait, are cancelled, and reject tokens.

use std::sync::Arc;

use entra_exchange_core::broker::{CachedToken, RejectedToken, Rejection, RequiredLifetime, StreamId, TokenLookup};
use entra_exchange_core::entra::TokenKey;
use sha2::{Digest as _, Sha256};

use crate::entra;
use crate::judge::{Life, Rejects};
use crate::sabotage::Sabotage;
use crate::vm::{RequestedToken, Vm};
use crate::world::{SharedView, SimulatedEvent, World};

impl World {
    pub(crate) fn handle_request(&self, vm: usize, index: usize, need: RequiredLifetime) {
        let now = self.now(vm);
        let stream = StreamId(self.number() as u32);
        let mut state = self.vms[vm].borrow_mut();
        let life = (vm, state.generation);
        let spec = Arc::clone(&state.specs[index]);
        let waiting = state.streams.len();
        let shared_view = SharedView { world: self, vm };
        let (stale, rejects) = self.stale(&state, spec.key());
        let began = self.judge.borrow().publications;
        let answer = if let Some(stale) = stale {
            let (answer, rejection) = state.broker.get_replacement(&spec, need, stale, stream, now, &shared_view);
            let seen = state.handed_out.get(&spec.key()).and_then(|issued| entra::number_of(issued.token().expose()));
            self.rejects(&state, vm, spec.key(), seen, &rejection);
            Some(answer)
        } else {
            let (answer, look) = if self.chance(self.plan.unwaiting) {
                (None, state.broker.prefetch(&spec, now, &shared_view))
            } else {
                let (answer, look) = state.broker.get(&spec, need, stream, now, &shared_view);
                (Some(answer), look)
            };
            if look {
                self.wake_self(&state, vm, spec.key());
            }
            answer
        };
        self.note(vm, || format!("  {stream:?} gets {answer:?}"));
        match answer {
            None => {}
            Some(TokenLookup::Ready(issued)) => {
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
            state.broker.forget(stream);
            self.judge.borrow_mut().stops_waiting((vm, generation), stream);
        }
    }

    /// The upstream rejects the token that was handed out last with 401.
    pub(crate) fn rejected(&self, (vm, generation): Life, key: TokenKey) {
        let now = self.now(vm);
        let mut state = self.vms[vm].borrow_mut();
        let Some(issued) = state.handed_out.get(&key).filter(|_| state.generation == generation).cloned() else {
            return;
        };
        let rejection = state.broker.reject(key, &issued, now, &SharedView { world: self, vm });
        self.rejects(&state, vm, key, entra::number_of(issued.token().expose()), &rejection);
    }

    /// Wakes the workers that the broker names after a rejection.
    fn rejects(&self, state: &Vm, vm: usize, key: TokenKey, number: Option<usize>, rejection: &Rejection) {
        self.note(vm, || format!("  {rejection:?} of token {number:?}"));
        if rejection.newly_rejected {
            self.judge.borrow_mut().marks(key, number, &self.clock);
        }
        for queue in &rejection.wake {
            if *queue == state.queue {
                self.wake_self(state, vm, key);
            } else {
                self.wake(*queue, key);
            }
        }
    }

    /// Sends the worker a message to itself, which arrives in the next iteration of its event loop.
    fn wake_self(&self, state: &Vm, vm: usize, key: TokenKey) {
        if self.sabotage != Some(Sabotage::NoMessageToOneself) {
            let at = self.clock.steady() + self.draw(0, 2);
            self.put(at, vm, SimulatedEvent::Message { queue: state.queue, key });
        }
    }
}
