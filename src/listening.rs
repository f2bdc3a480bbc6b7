//! Every address that the gateway listens on, for the life of the address: whatever configuration has it, the sockets are
//! the same. To close one resets what waits in its queue, so none is closed while it is configured.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::config::{Bind, Config, Listener, Name};
use crate::downstream::addr::ListenAddr;
use crate::downstream::listener::Policy;
use crate::downstream::seat::Budgets;
use crate::socket::{self, BindError, Listening, Ours};

/// The addresses of one configuration.
#[derive(Debug, Default)]
pub struct Addresses(Vec<Address>);

/// One entry of `listener.bind`, bound.
#[derive(Debug)]
struct Address {
    listener: Arc<Listener>,
    bind: Bind,
    sockets: Vec<Arc<Listening>>,
}

impl Addresses {
    /// Binds what this configuration has and `self` has not. Nothing of `self` is touched, and what was bound here is
    /// closed when this fails.
    pub fn followed_by(&self, config: &Config) -> Result<Self, (Name, BindError)> {
        let workers = config.gateway.workers.get();
        let mut addresses = Vec::new();
        let mut taken = HashSet::new();
        for listener in &config.listeners {
            for bind in &listener.binds {
                let sockets = match self.of(&listener.name, *bind, &mut taken) {
                    Some(sockets) => sockets,
                    None => socket::listen(*bind, workers, &config.tcp, |address| self.ours(address))
                        .map_err(|error| (listener.name.clone(), error))?,
                };
                addresses.push(Address { listener: Arc::clone(listener), bind: *bind, sockets });
            }
        }
        Self(addresses).each_once()
    }

    /// Each address with the listener that has it.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<Listener>, &Arc<Listening>)> {
        self.0.iter().flat_map(|address| address.sockets.iter().map(|sockets| (&address.listener, sockets)))
    }

    /// Those that are not among `others`.
    pub fn not_in(&self, others: &Self) -> impl Iterator<Item = (&Arc<Listener>, &Arc<Listening>)> {
        self.all().filter(|(_, listening)| others.known(listening.address).is_none())
    }

    /// How connections to each of them are treated.
    pub fn policies(&self, budgets: &mut Budgets) -> Vec<(ListenAddr, Policy)> {
        let mut policy =
            |listener: &Arc<Listener>| Policy { config: Arc::clone(listener), budget: budgets.of(listener) };
        self.all().map(|(listener, listening)| (listening.address, policy(listener))).collect()
    }

    /// One worker's sockets of those that are not among `others`.
    pub fn of_worker(&self, worker: usize, others: &Self) -> io::Result<Vec<(ListenAddr, OwnedFd)>> {
        self.not_in(others).map(|(_, listening)| Ok((listening.address, listening.of_worker(worker)?))).collect()
    }

    /// By the words of the configuration: port 0 is another port each time that it is bound. Where the same words stand there
    /// more than once, each time the next that nobody has `taken`.
    fn of(&self, listener: &Name, bind: Bind, taken: &mut HashSet<usize>) -> Option<Vec<Arc<Listening>>> {
        let is_meant = |address: &Address| address.listener.name == *listener && address.bind == bind;
        let mut meant = (0..self.0.len()).filter(|index| is_meant(&self.0[*index]));
        let found = meant.find(|index| taken.insert(*index))?;
        Some(self.0[found].sockets.clone())
    }

    /// An address that port 0 was given, or one that it is a part of, may stand in the configuration for another listener.
    fn each_once(self) -> Result<Self, (Name, BindError)> {
        let earlier = |count: usize, address| self.all().take(count).any(|(_, listening)| listening.overlaps(address));
        let twice = self.all().enumerate().find(|(index, (_, listening))| earlier(*index, listening.address));
        let twice = twice.map(|(_, found)| found);
        match twice.map(|(listener, listening)| (listener.name.clone(), BindError::given(listening.address))) {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    fn ours(&self, address: ListenAddr) -> Ours {
        match self.known(address) {
            Some(listening) => Ours::Whole(listening),
            None if self.all().any(|(_, listening)| listening.overlaps(address)) => Ours::Part,
            None => Ours::Nothing,
        }
    }

    /// By the address itself, whoever has it: `*:80` may become `0.0.0.0:80`, and a listener get another name.
    fn known(&self, address: ListenAddr) -> Option<Arc<Listening>> {
        self.all().find(|(_, listening)| listening.address == address).map(|(_, listening)| Arc::clone(listening))
    }
}
