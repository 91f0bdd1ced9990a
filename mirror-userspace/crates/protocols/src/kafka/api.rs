//! The requests: their names, where their topics are, and the errors of their responses
//! (kafka.apache.org/protocol).

use super::fields::Fields;

/// Names, by key.
const NAMES: &[&str] = &[
    "Produce",
    "Fetch",
    "ListOffsets",
    "Metadata",
    "LeaderAndIsr",
    "StopReplica",
    "UpdateMetadata",
    "ControlledShutdown",
    "OffsetCommit",
    "OffsetFetch",
    "FindCoordinator",
    "JoinGroup",
    "Heartbeat",
    "LeaveGroup",
    "SyncGroup",
    "DescribeGroups",
    "ListGroups",
    "SaslHandshake",
    "ApiVersions",
    "CreateTopics",
    "DeleteTopics",
    "DeleteRecords",
    "InitProducerId",
    "OffsetForLeaderEpoch",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "EndTxn",
    "WriteTxnMarkers",
    "TxnOffsetCommit",
    "DescribeAcls",
    "CreateAcls",
    "DeleteAcls",
    "DescribeConfigs",
    "AlterConfigs",
    "AlterReplicaLogDirs",
    "DescribeLogDirs",
    "SaslAuthenticate",
    "CreatePartitions",
    "CreateDelegationToken",
    "RenewDelegationToken",
    "ExpireDelegationToken",
    "DescribeDelegationToken",
    "DeleteGroups",
    "ElectLeaders",
    "IncrementalAlterConfigs",
    "AlterPartitionReassignments",
    "ListPartitionReassignments",
    "OffsetDelete",
    "DescribeClientQuotas",
    "AlterClientQuotas",
    "DescribeUserScramCredentials",
    "AlterUserScramCredentials",
    "Vote",
    "BeginQuorumEpoch",
    "EndQuorumEpoch",
    "DescribeQuorum",
    "AlterPartition",
    "UpdateFeatures",
    "Envelope",
    "FetchSnapshot",
    "DescribeCluster",
    "DescribeProducers",
    "BrokerRegistration",
    "BrokerHeartbeat",
    "UnregisterBroker",
    "DescribeTransactions",
    "ListTransactions",
    "AllocateProducerIds",
    "ConsumerGroupHeartbeat",
];

/// Returns the name of a request.
pub(super) fn name(key: u16) -> Option<&'static str> {
    NAMES.get(usize::from(key)).copied()
}

/// Returns the key of a request with this name.
pub(super) fn key(name: &[u8]) -> Option<u16> {
    NAMES.iter().position(|of| of.as_bytes() == name).map(|key| key as u16)
}

/// Returns the first version of a request whose fields are compact. That of its response is the same.
const fn flexible_since(key: u16) -> u16 {
    match key {
        0 | 3 => 9,
        1 => 12,
        2 | 9 | 11 => 6,
        8 => 8,
        12..=14 | 20 => 4,
        15 | 19 => 5,
        10 | 16 | 18 => 3,
        21 | 22 | 36 | 42 => 2,
        _ => u16::MAX,
    }
}

/// The object of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About<'a> {
    /// The first topic, or the group.
    pub(super) topic: &'a [u8],
    /// No response is due.
    pub(super) silent: bool,
}

/// Reads what a request is about.
pub(super) fn about(key: u16, version: u16, body: &[u8]) -> About<'_> {
    let mut fields = Fields::new(body, version >= flexible_since(key));
    let mut about = About::default();
    // The header ends with tagged fields, too.
    if fields.tags().is_some() {
        let _ = read(key, version, &mut fields, &mut about);
    }
    about
}

fn read<'a>(key: u16, version: u16, fields: &mut Fields<'a>, about: &mut About<'a>) -> Option<()> {
    match key {
        0 => {
            if version >= 3 {
                fields.string()?;
            }
            about.silent = fields.i16()? == 0;
            fields.skip(4)?;
        }
        1 => {
            if version >= 13 {
                // Topics have identifiers instead of names.
                return None;
            }
            // Replica, times and sizes, isolation, session.
            fields.skip(4 + 4 + 4)?;
            fields.skip(
                if version >= 3 { 4 } else { 0 }
                    + usize::from(version >= 4)
                    + if version >= 7 { 8 } else { 0 },
            )?;
        }
        2 => fields.skip(if version >= 2 { 5 } else { 4 })?,
        3 if version < 10 => {}
        8..=14 => {
            // Of a group; in `FindCoordinator`, its name comes first until version 3.
            if key == 10 && version >= 4 {
                return None;
            }
            about.topic = fields.string()?;
            return Some(());
        }
        19 | 20 if key == 19 || version < 6 => {}
        _ => return None,
    }
    if fields.list()? > 0 {
        about.topic = fields.string()?;
    }
    Some(())
}

/// Reads the first error of a response; `None` if it is not known where errors are.
pub(super) fn error(key: u16, version: u16, body: &[u8]) -> Option<i16> {
    let flexible = version >= flexible_since(key);
    let mut fields = Fields::new(body, flexible);
    // The header of `ApiVersions` never has tagged fields.
    if key != 18 {
        fields.tags()?;
    }
    let throttled_since = match key {
        10 | 12 | 13 | 14 | 16 => 1,
        11 => 2,
        22 | 42 => 0,
        _ => u16::MAX,
    };
    match key {
        0 => partitions(
            &mut fields,
            match version {
                // Behind the error are lists.
                8.. => None,
                5..=7 => Some(24),
                2..=4 => Some(16),
                _ => Some(8),
            },
        ),
        1 if version >= 7 => {
            fields.skip(4)?;
            fields.i16()
        }
        8 => {
            if version >= 3 {
                fields.skip(4)?;
            }
            partitions(&mut fields, Some(0))
        }
        17 | 18 | 36 => fields.i16(),
        10 if version >= 4 => None,
        10..=14 | 16 | 22 => {
            if version >= throttled_since {
                fields.skip(4)?;
            }
            fields.i16()
        }
        _ => None,
    }
}

/// Returns the first error of topics with partitions: each has a number and an error first, and `behind` them this many
/// bytes.
fn partitions(fields: &mut Fields<'_>, behind: Option<usize>) -> Option<i16> {
    for _ in 0..fields.list()? {
        fields.string()?;
        for _ in 0..fields.list()? {
            fields.skip(4)?;
            let error = fields.i16()?;
            match behind {
                Some(len) if error == 0 => fields.skip(len)?,
                _ => return Some(error),
            }
            fields.tags()?;
        }
        fields.tags()?;
    }
    Some(0)
}
