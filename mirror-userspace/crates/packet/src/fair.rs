//! Memory that hosts share, and the choice of the host that gives some back when it is used up.
//!
//! The memory that a worker uses for unfinished data (messages, holes in streams, fragments) has one bound in
//! total, and mirrored hosts determine how much of it is used. Each item is in two queues, the queue of all
//! items and the queue of the host that sent it, both in the order of age. When the bound is exceeded, the
//! host that uses the most memory gives its oldest item back, provided that it uses a large part of the
//! total. Otherwise the oldest item of all goes. So neither one host that finishes nothing, nor many such
//! hosts, can displace the items of others that finish soon.

/// The divisor of the bound: a host that uses more than this part of it is the first to give memory back.
const GREEDY_PART: usize = 8;
/// The number of hosts that a hash tells apart.
const HOSTS: usize = 1024;
/// Stands for no slot.
const NONE: u32 = u32::MAX;

/// The two queues that each slot is in.
const ALL: usize = 0;
const OF_HOST: usize = 1;
const BOTH: [usize; 2] = [ALL, OF_HOST];

/// Neighbours in the order of age.
#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

/// Slots in the order in which they were entered, and their total cost.
#[derive(Clone, Copy, Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
    cost: usize,
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, cost: 0 };
}

/// An item that occupies memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The hash of the host that sent it.
    host: u16,
    /// The bytes that it counts as.
    cost: usize,
    links: [Links; 2],
}

impl Slot {
    const UNUSED: Self = Self { host: 0, cost: 0, links: [Links { older: NONE, newer: NONE }; 2] };
}

/// Items by number, age and host. The items themselves are stored elsewhere, under the same numbers.
#[derive(Debug)]
pub struct Shares {
    bound: usize,
    /// The cost above which a host is greedy.
    large: usize,
    slots: Vec<Slot>,
    all: Queue,
    hosts: Vec<Queue>,
    /// The hosts that hold more than their part, of which there are few at any time.
    greedy: Vec<u16>,
}

impl Shares {
    /// Creates an empty instance. The items may cost `bound` bytes in total.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        let greedy = Vec::with_capacity(2 * GREEDY_PART);
        let large = bound / GREEDY_PART;
        Self { bound, large, slots: Vec::new(), all: Queue::EMPTY, hosts: vec![Queue::EMPTY; HOSTS], greedy }
    }

    /// Sets another bound for the total cost. A large part stays that of the first bound.
    pub const fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// Returns the total cost of all items.
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.all.cost
    }

    /// Returns the number of the oldest item.
    #[must_use]
    pub fn oldest(&self) -> Option<usize> {
        (self.all.oldest != NONE).then_some(self.all.oldest as usize)
    }

    /// Enters a new item, at no cost yet. `host` is a hash of its sender.
    pub fn enter(&mut self, slot: usize, host: u16) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Slot::UNUSED);
        }
        let host = host % HOSTS as u16;
        let mut links = Slot::UNUSED.links;
        for which in BOTH {
            let queue = self.queue(which, host);
            let older = std::mem::replace(&mut queue.newest, slot as u32);
            if older == NONE {
                queue.oldest = slot as u32;
            } else {
                self.slots[older as usize].links[which].newer = slot as u32;
            }
            links[which].older = older;
        }
        self.slots[slot] = Slot { host, cost: 0, links };
    }

    /// Sets the cost of an item.
    pub fn charge(&mut self, slot: usize, cost: usize) {
        let Slot { host, cost: before, .. } = self.slots[slot];
        self.slots[slot].cost = cost;
        self.change(host, before, cost);
    }

    /// A host's slot costs this instead of what it did.
    fn change(&mut self, host: u16, before: usize, cost: usize) {
        self.all.cost = self.all.cost + cost - before;
        let most = self.large;
        let queue = &mut self.hosts[usize::from(host)];
        let was_greedy = queue.cost > most;
        queue.cost = queue.cost + cost - before;
        match (was_greedy, queue.cost > most) {
            (false, true) => self.greedy.push(host),
            (true, false) => self.greedy.retain(|&other| other != host),
            _ => {}
        }
    }

    /// Removes an item.
    pub fn leave(&mut self, slot: usize) {
        let Slot { host, cost, links } = std::mem::replace(&mut self.slots[slot], Slot::UNUSED);
        self.change(host, cost, 0);
        for which in BOTH {
            let Links { older, newer } = links[which];
            let queue = self.queue(which, host);
            if older == NONE {
                queue.oldest = newer;
            }
            if newer == NONE {
                queue.newest = older;
            }
            if older != NONE {
                self.slots[older as usize].links[which].newer = newer;
            }
            if newer != NONE {
                self.slots[newer as usize].links[which].older = older;
            }
        }
    }

    /// Returns the number of the item to give back, other than `except`, if the bound is exceeded.
    #[must_use]
    pub fn to_give_back(&self, except: usize) -> Option<usize> {
        if self.all.cost <= self.bound {
            return None;
        }
        let greedy = self.greedy.iter().map(|&host| &self.hosts[usize::from(host)]);
        let of_host =
            greedy.max_by_key(|host| host.cost).and_then(|host| self.oldest_of(host, OF_HOST, except));
        of_host.or_else(|| self.oldest_of(&self.all, ALL, except))
    }

    /// Returns the oldest item of a queue other than `except`.
    fn oldest_of(&self, queue: &Queue, which: usize, except: usize) -> Option<usize> {
        let oldest = queue.oldest;
        let chosen = if oldest as usize == except { self.slots[except].links[which].newer } else { oldest };
        (chosen != NONE).then_some(chosen as usize)
    }

    fn queue(&mut self, which: usize, host: u16) -> &mut Queue {
        if which == ALL { &mut self.all } else { &mut self.hosts[usize::from(host)] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Costs add up and the order holds for any sequence of entering, charging and leaving, compared with
        /// a plain list.
        #[test]
        fn it_behaves_as_a_list_of_what_is_kept(
            steps in prop::collection::vec((0_usize..12, 0_u16..4, 1_usize..100), 1..200)
        ) {
            let mut shares = Shares::new(400);
            let mut model: Vec<(usize, u16, usize)> = Vec::new();
            for (slot, host, cost) in steps {
                match model.iter().position(|&(other, ..)| other == slot) {
                    Some(at) if cost < 30 => {
                        shares.leave(slot);
                        model.remove(at);
                    }
                    Some(at) => {
                        shares.charge(slot, cost);
                        model[at].2 = cost;
                    }
                    None => {
                        shares.enter(slot, host);
                        shares.charge(slot, cost);
                        model.push((slot, host, cost));
                    }
                }
                prop_assert_eq!(shares.oldest(), model.first().map(|kept| kept.0));
                let all: usize = model.iter().map(|kept| kept.2).sum();
                prop_assert_eq!(shares.cost(), all);
                let of = |host| model.iter().filter(|kept| kept.1 == host).map(|kept| kept.2).sum::<usize>();
                for host in 0..4 {
                    prop_assert_eq!(shares.hosts[usize::from(host)].cost, of(host));
                }
                let except = model.last().map_or(0, |kept| kept.0);
                let chosen = shares.to_give_back(except);
                if all <= 400 {
                    prop_assert_eq!(chosen, None);
                    continue;
                }
                let most = (0..4).map(of).max().unwrap_or_default();
                let candidates = || model.iter().filter(|kept| kept.0 != except);
                let Some(chosen) = chosen else {
                    prop_assert_eq!(candidates().count(), 0);
                    continue;
                };
                // More than 400 bytes among four hosts: one host has more than an eighth.
                let host = model.iter().find(|kept| kept.0 == chosen).map_or(9, |kept| kept.1);
                let of_host = candidates().find(|kept| kept.1 == host).map(|kept| kept.0);
                let first = candidates().next().map(|kept| kept.0);
                // Otherwise the greediest host has no other item.
                let alone = |host| of(host) == most && candidates().all(|kept| kept.1 != host);
                let greedy = of(host) == most && of_host == Some(chosen);
                prop_assert!(greedy || first == Some(chosen) && (0..4).any(alone));
            }
        }
    }

    #[test]
    fn without_a_greedy_host_the_oldest_gives_back() {
        let mut shares = Shares::new(100);
        for slot in 0..101 {
            shares.enter(slot, slot as u16);
            shares.charge(slot, 1);
        }
        assert_eq!(shares.to_give_back(100), Some(0));
        shares.leave(0);
        assert_eq!(shares.to_give_back(100), None);
        shares.charge(100, 3);
        assert_eq!(shares.to_give_back(1), Some(2));
    }
}
