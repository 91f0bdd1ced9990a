//! Places for connections: how many each client has, and which connection makes room for the next one.
//!
//! A connection is either open, which allows requests to the whole API, or a guest, which allows health
//! checks only. If all open places are taken, or the client has its maximum of them, a new connection
//! replaces the connection that has waited longest for its client, among those of the client with the most
//! places. If no connection waits, the new one becomes a guest. There is always a place for a guest: the
//! oldest guest of the client with the most guests makes room. So a health check gets in whatever the other
//! connections do, and a client that opens connections without end closes its own.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// The numbers of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Open connections.
    pub(super) open: usize,
    /// Open connections of one client.
    pub(super) client: usize,
    /// Guests.
    pub(super) guests: usize,
}

/// The client of a connection: an IPv4 address, or the /64 of an IPv6 address, since a host may own all
/// addresses of a /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The requests that a connection may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Open,
    /// Health checks.
    Guest,
}

/// Measures nanoseconds since the table was created.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        // More than 500 years fit.
        self.0.elapsed().as_nanos() as u64
    }
}

/// A client that reads nothing of an answer for this time counts as idle, like one without a request.
const STALL: Duration = Duration::from_secs(2);

/// Tracks whether a connection waits for its client. The connection writes it, the table reads it.
#[derive(Debug)]
pub(super) struct Activity {
    clock: Clock,
    /// The time when the connection began.
    begun: u64,
    /// The time when it last finished an answer, or when its client last blocked it.
    since: AtomicU64,
    /// The number of answers being prepared or sent.
    answers: AtomicU32,
    /// True if all bytes that the client sent were read.
    drained: AtomicBool,
    /// True if the client does not read the answer.
    blocked: AtomicBool,
}

impl Activity {
    fn new(clock: Clock) -> Self {
        let begun = clock.now();
        Self {
            clock,
            begun,
            since: begun.into(),
            answers: AtomicU32::default(),
            drained: true.into(),
            blocked: AtomicBool::default(),
        }
    }

    /// Counts an answer in progress, until the returned value is dropped.
    pub(super) fn answer(self: &Arc<Self>) -> Answering {
        self.answers.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Records whether all bytes that the client sent were read.
    pub(super) fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    /// Records whether the client does not read the answer.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if blocked && !self.blocked.load(Ordering::Relaxed) {
            self.since.store(self.clock.now(), Ordering::Relaxed);
        }
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Returns true if the connection waits for its client, which sends no request or does not read an
    /// answer.
    fn is_waiting(&self) -> bool {
        if self.blocked.load(Ordering::Relaxed) {
            return self.clock.now().saturating_sub(self.since()) >= STALL.as_nanos() as u64;
        }
        self.answers.load(Ordering::Relaxed) == 0 && self.drained.load(Ordering::Relaxed)
    }

    fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }
}

/// An answer in progress.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        let Self(activity) = self;
        activity.since.store(activity.clock.now(), Ordering::Relaxed);
        activity.answers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Place {
    client: Client,
    access: Access,
    activity: Arc<Activity>,
    /// Dropped to close the connection.
    _open: oneshot::Sender<()>,
}

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    clock: Clock,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    places: HashMap<u64, Place>,
}

/// The place of a connection; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Ticket {
    places: Arc<Places>,
    number: u64,
    /// The requests that the connection may send.
    pub(super) access: Access,
    /// The activity of the connection.
    pub(super) activity: Arc<Activity>,
    /// Resolves when the connection has to make room.
    pub(super) closed: oneshot::Receiver<()>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Already removed if the connection had to make room.
        self.places.taken().places.remove(&self.number);
    }
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, clock: Clock(Instant::now()), taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Entries are inserted and removed as a whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection of this client. Another connection may have to close for it.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> Ticket {
        let mut taken = self.taken();
        let access = taken.make_room(client, &self.bounds);
        let activity = Arc::new(Activity::new(self.clock));
        let (open, closed) = oneshot::channel();
        let number = taken.next;
        taken.next += 1;
        let place = Place { client, access, activity: Arc::clone(&activity), _open: open };
        taken.places.insert(number, place);
        drop(taken);
        Ticket { places: Arc::clone(self), number, access, activity, closed }
    }
}

impl Taken {
    /// Returns the kind of place that the next connection of a client gets, and frees one if none is free.
    fn make_room(&mut self, client: Client, bounds: &Bounds) -> Access {
        let of = |access| self.places.values().filter(move |place| place.access == access);
        let open = of(Access::Open).count();
        let own = of(Access::Open).filter(|place| place.client == client).count();
        if open < bounds.open && own < bounds.client {
            return Access::Open;
        }
        // Including the requested place.
        let own = own + 1;
        let counts = self.counts(Access::Open);
        let count = |place: &Place| match counts.get(&place.client) {
            _ if place.client == client => own,
            theirs => theirs.copied().unwrap_or_default(),
        };
        let may_go = |place: &Place| place.client == client || own <= bounds.client && count(place) >= own;
        let waiting = self.places.iter().filter(|(_, place)| {
            place.access == Access::Open && place.activity.is_waiting() && may_go(place)
        });
        let greediest = waiting.max_by_key(|(_, place)| (count(place), Reverse(place.activity.since())));
        if let Some((&number, _)) = greediest {
            self.places.remove(&number);
            return Access::Open;
        }
        let counts = self.counts(Access::Guest);
        if counts.values().sum::<usize>() >= bounds.guests {
            let guests = self.places.iter().filter(|(_, place)| place.access == Access::Guest);
            let greediest = guests.max_by_key(|(_, place)| {
                let theirs = counts.get(&place.client).copied().unwrap_or_default();
                (theirs + usize::from(place.client == client), Reverse(place.activity.begun))
            });
            if let Some((&number, _)) = greediest {
                self.places.remove(&number);
            }
        }
        Access::Guest
    }

    fn counts(&self, access: Access) -> HashMap<Client, usize> {
        let mut counts = HashMap::new();
        for place in self.places.values().filter(|place| place.access == access) {
            *counts.entry(place.client).or_default() += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { open: 6, client: 4, guests: 2 };

    fn client(last: u8) -> Client {
        IpAddr::from([10, 0, 0, last]).into()
    }

    /// Returns true if the connection was told to close.
    fn is_closed(ticket: &mut Ticket) -> bool {
        ticket.closed.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn take(places: &Arc<Places>, last: u8, count: usize) -> Vec<Ticket> {
        (0..count).map(|_| places.take(client(last))).collect()
    }

    fn closed(tickets: &mut [Ticket]) -> Vec<usize> {
        (0..tickets.len()).filter(|&at| is_closed(&mut tickets[at])).collect()
    }

    #[test]
    fn addresses_of_one_host_are_one_client() {
        let of = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn a_client_with_all_its_places_gives_up_its_longest_waiting_connection() {
        let places = Places::new(BOUNDS);
        let mut others = take(&places, 2, 2);
        let mut own = take(&places, 1, 4);
        // The oldest is answering: the second waits the longest.
        let answer = own[0].activity.answer();
        assert_eq!(places.take(client(1)).access, Access::Open);
        assert_eq!((closed(&mut own), closed(&mut others)), (vec![1], vec![]));
        drop(answer);
    }

    #[test]
    fn the_greediest_client_makes_room_for_others() {
        let places = Places::new(BOUNDS);
        let mut greedy = take(&places, 1, 4);
        let mut modest = take(&places, 2, 2);
        let third = places.take(client(3));
        assert_eq!(third.access, Access::Open);
        assert_eq!((closed(&mut greedy), closed(&mut modest)), (vec![0], vec![]));
        // A client does not displace clients that have no more places than it would have.
        let mut busy: Vec<_> = greedy.iter().map(|ticket| ticket.activity.answer()).collect();
        let guest = places.take(client(3));
        assert_eq!(guest.access, Access::Open, "two are as many as the modest one has");
        assert_eq!(closed(&mut modest), [0]);
        assert_eq!(places.take(client(4)).access, Access::Open);
        busy.clear();
    }

    #[test]
    fn hostile_clients_that_keep_every_place_busy_leave_places_for_guests() {
        let places = Places::new(BOUNDS);
        let mut tickets = take(&places, 1, 4);
        tickets.extend(take(&places, 2, 2));
        tickets[5].activity.set_blocked(true);
        let answers: Vec<_> = tickets[..5].iter().map(|ticket| ticket.activity.answer()).collect();
        let mut flood = take(&places, 1, 10);
        assert!(flood.iter().all(|ticket| ticket.access == Access::Guest));
        assert_eq!(closed(&mut flood), (0..8).collect::<Vec<_>>(), "its oldest guests make room");
        let mut check = places.take(client(3));
        assert_eq!(check.access, Access::Guest);
        let mut more = take(&places, 1, 10);
        assert!(!is_closed(&mut check), "another client's flood does not reach it");
        assert!(more.iter_mut().rev().take(1).all(|ticket| !is_closed(ticket)));
        assert_eq!(closed(&mut tickets), [] as [usize; 0]);
        drop(answers);
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(BOUNDS);
        for _ in 0..3 {
            let mut tickets = take(&places, 1, 4);
            assert_eq!(closed(&mut tickets), [] as [usize; 0]);
        }
        assert!(places.taken().places.is_empty());
    }
}
