//! What a simulation is made of, and how often what goes wrong.

use std::time::Duration;

/// A cluster, its load and its troubles.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Stands in a violation, so that it can be replayed.
    pub name: &'static str,
    /// Nodes, at least one.
    pub nodes: usize,
    /// Services; they start on the nodes in turn.
    pub services: usize,
    /// Clients; each has one channel, to the services in turn, from the nodes in turn.
    pub clients: usize,
    /// How long clients send and faults happen. Then everything heals and has to settle.
    pub load: Duration,
    /// The mean pause between two messages of one client.
    pub pause: Duration,
    /// How often what happens while the load lasts.
    pub rates: Rates,
    /// The rule that is broken on purpose.
    pub mutation: Option<Mutation>,
    /// How many of the last events a violation shows.
    pub shown_events: usize,
}

/// Mean pauses between two events of one kind in the whole cluster; `None` is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Somebody asks for a service to be moved.
    pub moves: Option<Duration>,
    /// Somebody cancels a move.
    pub cancels: Option<Duration>,
    /// A connection breaks, and what is in flight is lost.
    pub cuts: Option<Duration>,
    /// Two nodes do not reach each other for a while.
    pub partitions: Option<Duration>,
    /// A gateway dies and is started again.
    pub gateway_crashes: Option<Duration>,
    /// An instance of a service dies and is started again.
    pub service_crashes: Option<Duration>,
    /// A node dies with everything on it, and comes back with its disk.
    pub node_crashes: Option<Duration>,
    /// A node does not reach the directory for a while.
    pub directory_cuts: Option<Duration>,
    /// The directory stores nothing for a while.
    pub directory_full: Option<Duration>,
    /// The share of datagrams between daemons that is lost, and as many are doubled, in percent.
    pub lossy_percent: u32,
    /// The share of what is asked of the directory, and of its answers, that takes up to 200 ms
    /// and not up to 2, in percent.
    pub slow_directory_percent: u32,
}

/// A rule to break.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mutation {
    /// A receiver takes a new producer's ring from its start, not from its own watermark.
    SkipWatermark,
    /// A target serves as soon as it has the state.
    ActivateBeforeCommit,
    /// A source thaws when the commit is not answered in time.
    ThawInDoubt,
    /// A gateway acknowledges what has arrived, not what the receiver has done.
    AcknowledgeOnArrival,
    /// A node that comes back goes on in its old epoch.
    RebootWithoutRegistration,
    /// The successor of a dead instance starts at `done`, not at `taken`.
    SuccessorFromDone,
    /// A move leaves the unacknowledged replies behind.
    ForgetReplies,
    /// A sealed target takes any move to its node for its own.
    IgnoreMoveId,
    /// The frozen source is not frozen: it goes on serving after its state was taken.
    FreezeInName,
    /// The successor of a dead instance tells nobody that an outcome is unknown.
    SilentSuccessor,
}

impl Scenario {
    fn base(name: &'static str) -> Self {
        Self {
            name,
            nodes: 3,
            services: 1,
            clients: 4,
            load: Duration::from_millis(600),
            pause: Duration::from_millis(16),
            rates: Rates {
                slow_directory_percent: 5,
                ..Rates::default()
            },
            mutation: None,
            shown_events: 60,
        }
    }

    /// Connections break and nodes lose sight of each other.
    #[must_use]
    pub fn lossy_links() -> Self {
        let mut scenario = Self::base("lossy_links");
        scenario.services = 2;
        scenario.rates.cuts = Some(Duration::from_millis(60));
        scenario.rates.partitions = Some(Duration::from_millis(300));
        scenario
    }

    /// Services move all the time, between nodes whose daemons lose what they say.
    #[must_use]
    pub fn moves_under_load() -> Self {
        let mut scenario = Self::base("moves_under_load");
        scenario.load = Duration::from_millis(1000);
        scenario.pause = Duration::from_millis(25);
        scenario.rates.moves = Some(Duration::from_millis(120));
        scenario.rates.cancels = Some(Duration::from_millis(400));
        scenario.rates.cuts = Some(Duration::from_millis(400));
        scenario.rates.lossy_percent = 3;
        scenario.rates.directory_cuts = Some(Duration::from_millis(500));
        scenario.rates.directory_full = Some(Duration::from_millis(900));
        scenario
    }

    /// Gateways and instances die while connections break.
    #[must_use]
    pub fn process_crashes() -> Self {
        let mut scenario = Self::base("process_crashes");
        scenario.services = 2;
        scenario.rates.gateway_crashes = Some(Duration::from_millis(100));
        scenario.rates.service_crashes = Some(Duration::from_millis(120));
        scenario.rates.cuts = Some(Duration::from_millis(300));
        scenario
    }

    /// Nodes die during moves, and everything else goes wrong as well.
    #[must_use]
    pub fn everything() -> Self {
        let mut scenario = Self::base("everything");
        scenario.load = Duration::from_millis(1200);
        scenario.pause = Duration::from_millis(30);
        scenario.rates = Rates {
            moves: Some(Duration::from_millis(120)),
            cancels: Some(Duration::from_millis(800)),
            cuts: Some(Duration::from_millis(500)),
            partitions: Some(Duration::from_millis(800)),
            gateway_crashes: Some(Duration::from_millis(500)),
            service_crashes: Some(Duration::from_millis(500)),
            node_crashes: Some(Duration::from_millis(450)),
            directory_cuts: Some(Duration::from_millis(600)),
            directory_full: Some(Duration::from_millis(1500)),
            lossy_percent: 3,
            slow_directory_percent: 5,
        };
        scenario
    }

    /// Several services on more nodes, with slow storage and daemons that lose a tenth of what they
    /// say: commits that stay in doubt, and targets that are forgotten.
    #[must_use]
    pub fn doubtful_commits() -> Self {
        let mut scenario = Self::everything();
        scenario.name = "doubtful_commits";
        scenario.nodes = 4;
        scenario.services = 3;
        scenario.clients = 5;
        scenario.pause = Duration::from_millis(60);
        scenario.rates.moves = Some(Duration::from_millis(50));
        scenario.rates.gateway_crashes = None;
        scenario.rates.lossy_percent = 10;
        scenario.rates.slow_directory_percent = 30;
        scenario
    }

    /// All scenarios that hold without a mutation.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::lossy_links(),
            Self::moves_under_load(),
            Self::process_crashes(),
            Self::everything(),
            Self::doubtful_commits(),
        ]
    }

    /// The same, with a rule broken.
    #[must_use]
    pub const fn broken(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        self
    }
}
