//! What requests do: ask for tokens, wait, leave, and reject what they got.

use std::sync::Arc;

use entra_exchange_core::broker::{Answer, Issued, Need, Rejection, Stale, StreamId};
use entra_exchange_core::entra::TokenKey;
use sha2::{Digest as _, Sha256};

use crate::entra;
use crate::judge::{Life, Rejects};
use crate::sabotage::Sabotage;
use crate::vm::{Asked, Vm};
use crate::world::{Door, Happening, World};

impl World {
    pub(crate) fn asks(&self, vm: usize, place: usize, need: Need) {
        let now = self.now(vm);
        let stream = StreamId(self.number() as u32);
        let mut at_work = self.vms[vm].borrow_mut();
        let life = (vm, at_work.generation);
        let grant = Arc::clone(&at_work.grants[place]);
        let waiting = at_work.streams.len();
        let door = Door { world: self, vm };
        let (stale, rejects) = self.stale(&at_work, grant.key());
        let answer = if let Some(stale) = stale {
            let (answer, rejection) = at_work.broker.get_another(&grant, need, stale, stream, now, &door);
            let seen =
                at_work.handed_out.get(&grant.key()).and_then(|issued| entra::number_of(issued.token().expose()));
            self.rejects(&at_work, vm, grant.key(), seen, &rejection);
            Some(answer)
        } else {
            let (answer, look) = if self.chance(self.plan.unwaiting) {
                (None, at_work.broker.want(&grant, now, &door))
            } else {
                let (answer, look) = at_work.broker.get(&grant, need, stream, now, &door);
                (Some(answer), look)
            };
            if look {
                self.looks_soon(&at_work, vm, grant.key());
            }
            answer
        };
        self.note(vm, || format!("  {stream:?} is told {answer:?}"));
        match answer {
            None => {}
            Some(Answer::Ready(issued)) => self.hands_out(&mut at_work, life, &Asked { grant, rejects }, issued),
            Some(Answer::Failed(problem)) => {
                let asked = Asked { grant, rejects };
                self.judge.borrow_mut().refuses(&asked, &problem, (life, waiting), &self.clock);
            }
            Some(Answer::Pending) => {
                at_work.streams.insert(stream, Asked { grant, rejects });
                self.judge.borrow_mut().waits(life, stream, self.clock.steady(), at_work.stalled);
                if self.chance(self.plan.leaves) {
                    let at = self.clock.steady() + self.draw(0, 2_000);
                    self.put(at, vm, Happening::Leaves { generation: life.1, stream });
                }
            }
        }
    }

    /// Which token a caller rejects: the one that was handed out last, or whatever is cached.
    fn stale(&self, at_work: &Vm, key: TokenKey) -> (Option<Stale>, Rejects) {
        if !self.chance(self.plan.stale) {
            return (None, Rejects::Nothing);
        }
        match at_work.handed_out.get(&key).map(|issued| issued.token()) {
            Some(token) if self.chance(50) => {
                let number = entra::number_of(token.expose()).unwrap_or(usize::MAX);
                (Some(Stale::Digest(Sha256::digest(token.expose()).into())), Rejects::Token(number))
            }
            _ => (Some(Stale::Any), Rejects::Any),
        }
    }

    pub(crate) fn hands_out(&self, at_work: &mut Vm, (vm, generation): Life, asked: &Asked, issued: Arc<Issued>) {
        self.judge.borrow_mut().hands_out(asked, &issued, at_work.stalled_until, &self.clock);
        let key = asked.grant.key();
        at_work.handed_out.insert(key, issued);
        if self.clock.steady() < self.plan.end && self.chance(self.plan.rejected) {
            let at = self.clock.steady() + self.draw(1, 200);
            self.put(at, vm, Happening::Rejected { generation, key });
        }
    }

    pub(crate) fn leaves(&self, (vm, generation): Life, stream: StreamId) {
        let mut at_work = self.vms[vm].borrow_mut();
        if at_work.generation == generation && at_work.streams.remove(&stream).is_some() {
            at_work.broker.forget(stream);
            self.judge.borrow_mut().waits_no_more((vm, generation), stream);
        }
    }

    /// The upstream answers 401 to the token that was handed out last.
    pub(crate) fn rejected(&self, (vm, generation): Life, key: TokenKey) {
        let now = self.now(vm);
        let mut at_work = self.vms[vm].borrow_mut();
        let Some(issued) = at_work.handed_out.get(&key).filter(|_| at_work.generation == generation).cloned() else {
            return;
        };
        let rejection = at_work.broker.reject(key, &issued, now, &Door { world: self, vm });
        self.rejects(&at_work, vm, key, entra::number_of(issued.token().expose()), &rejection);
    }

    /// A worker rejected a token: it wakes whom its broker names.
    fn rejects(&self, at_work: &Vm, vm: usize, key: TokenKey, number: Option<usize>, rejection: &Rejection) {
        self.note(vm, || format!("  {rejection:?} of token {number:?}"));
        if rejection.marked {
            self.judge.borrow_mut().marks(key, number, &self.clock);
        }
        for queue in &rejection.wake {
            if *queue == at_work.queue {
                self.looks_soon(at_work, vm, key);
            } else {
                self.wake(*queue, key);
            }
        }
    }

    /// A message to oneself comes with the next turn of the event loop.
    fn looks_soon(&self, at_work: &Vm, vm: usize, key: TokenKey) {
        if self.sabotage != Some(Sabotage::NoMessageToOneself) {
            let at = self.clock.steady() + self.draw(0, 2);
            self.put(at, vm, Happening::Message { queue: at_work.queue, key });
        }
    }
}
