//! The operations of EC2 that describe what is mirrored, with the fields that are used. Names and forms are those of the
//! service's model, version 2016-11-15.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde::Deserialize;

use crate::client::{CallError, Client, Parameters};

/// The largest page of most operations. Calls without a page size are throttled sooner.
const PAGE: u32 = 1000;
/// Maximum number of pages of one call. An account has at most 10,000 sessions by default.
const MAX_PAGES: usize = 1000;

/// A list in an answer: elements named `item`.
#[derive(Clone, Debug, Deserialize)]
struct Set<T> {
    #[serde(default = "Vec::new", rename = "item")]
    items: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

/// Tags of a resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Set<Tag>")]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Returns the value of a tag.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl From<Set<Tag>> for Tags {
    fn from(set: Set<Tag>) -> Self {
        Self(set.items.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// A mirror session.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorSession {
    /// Its identifier, `tms-…`.
    pub traffic_mirror_session_id: String,
    /// The identifier of its target, `tmt-…`.
    pub traffic_mirror_target_id: Option<String>,
    /// The identifier of its filter, `tmf-…`.
    pub traffic_mirror_filter_id: Option<String>,
    /// The interface that it mirrors.
    pub network_interface_id: String,
    /// The account that owns it.
    pub owner_id: Option<String>,
    /// The VNI.
    pub virtual_network_id: Option<u32>,
    /// Its tags.
    #[serde(default)]
    pub tag_set: Tags,
}

/// A network interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its identifier, `eni-…`.
    pub network_interface_id: String,
    /// The kind, such as `interface`, `natGateway` or `vpc_endpoint`.
    pub interface_type: Option<String>,
    /// The description. Services describe theirs in forms of their own.
    #[serde(default)]
    pub description: String,
    /// The subnet.
    pub subnet_id: Option<String>,
    /// The VPC.
    pub vpc_id: Option<String>,
    /// The account that owns it.
    pub owner_id: Option<String>,
    /// The primary IPv4 address.
    pub private_ip_address: Option<IpAddr>,
    /// Its attachment.
    pub attachment: Option<Attachment>,
    /// Its tags.
    #[serde(default)]
    pub tag_set: Tags,
    #[serde(default)]
    private_ip_addresses_set: Set<PrivateAddress>,
    #[serde(default)]
    ipv6_addresses_set: Set<Ipv6Address>,
}

impl Interface {
    /// Returns all addresses, the primary ones first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<_> = self.private_ip_address.into_iter().collect();
        let others = self.private_ip_addresses_set.items.iter().map(|address| address.private_ip_address);
        let v6 = self.ipv6_addresses_set.items.iter().map(|address| IpAddr::V6(address.ipv6_address));
        for address in others.chain(v6) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrivateAddress {
    private_ip_address: IpAddr,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipv6Address {
    ipv6_address: Ipv6Addr,
}

/// The attachment of an interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The instance, if it is one.
    pub instance_id: Option<String>,
    /// The time of the attachment, RFC 3339.
    pub attach_time: Option<String>,
}

/// An instance.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its identifier, `i-…`.
    pub instance_id: String,
    /// Its state.
    pub instance_state: Option<State>,
    /// Its tags.
    #[serde(default)]
    pub tag_set: Tags,
}

/// The state of an instance.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// Its name, such as `running`.
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    #[serde(default)]
    instances_set: Set<Instance>,
}

/// Declares the answer of an operation with pages: its set, and the mark of the next page.
macro_rules! page {
    ($name:ident, $set:literal, $item:ty) => {
        #[derive(Deserialize)]
        struct $name {
            #[serde(default, rename = $set)]
            set: Set<$item>,
            #[serde(default, rename = "nextToken")]
            next: Option<String>,
        }

        impl From<$name> for (Vec<$item>, Option<String>) {
            fn from(page: $name) -> Self {
                (page.set.items, page.next)
            }
        }
    };
}

page!(SessionPage, "trafficMirrorSessionSet", MirrorSession);
page!(InterfacePage, "networkInterfaceSet", Interface);
page!(ReservationPage, "reservationSet", Reservation);

page!(TypePage, "instanceTypeSet", InstanceType);

/// A type of instances.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceType {
    /// Its name, such as `c7i.xlarge`.
    pub instance_type: String,
    /// False for types that have a successor.
    #[serde(default)]
    pub current_generation: bool,
    /// True for types without a hypervisor.
    #[serde(default)]
    pub bare_metal: bool,
    /// `nitro`, `xen` or absent.
    pub hypervisor: Option<String>,
    /// True if its CPU time is rationed.
    #[serde(default)]
    pub burstable_performance_supported: bool,
    /// The architectures of its CPUs.
    #[serde(default)]
    pub processor_info: Processor,
    /// Its CPUs.
    pub v_cpu_info: Cpus,
    /// Its memory.
    pub memory_info: Memory,
    /// Its network.
    pub network_info: Network,
}

/// The CPUs' architectures.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Processor {
    #[serde(default)]
    supported_architectures: Set<String>,
}

impl Processor {
    /// Returns whether the CPUs have an architecture, as EC2 names it: `x86_64`, `arm64`.
    #[must_use]
    pub fn is(&self, architecture: &str) -> bool {
        self.supported_architectures.items.iter().any(|supported| supported == architecture)
    }
}

/// The number of CPUs.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Cpus {
    /// Threads that run at once.
    #[serde(rename = "defaultVCpus")]
    pub cpus: u32,
    /// Cores.
    #[serde(rename = "defaultCores")]
    pub cores: Option<u32>,
}

/// The size of the memory.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Memory {
    /// In MiB.
    #[serde(rename = "sizeInMiB")]
    pub mebibytes: u64,
}

/// The network of a type.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// `required`, `supported` or `unsupported`.
    pub ena_support: Option<String>,
    #[serde(default)]
    network_cards: Set<Card>,
}

impl Network {
    /// Returns the first card, which has the primary interface.
    #[must_use]
    pub fn card(&self) -> Option<Card> {
        self.network_cards.items.first().copied()
    }
}

/// A network card.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// The bandwidth that is always there, in Gbit/s.
    pub baseline_bandwidth_in_gbps: Option<f64>,
    /// The bandwidth for a while, in Gbit/s.
    pub peak_bandwidth_in_gbps: Option<f64>,
    /// The queues of an interface unless another number is asked for.
    pub default_ena_queue_count_per_interface: Option<u32>,
    /// The most queues of an interface.
    pub maximum_ena_queue_count_per_interface: Option<u32>,
}

/// The actions that name sessions and hosts, as IAM names them.
pub const ACTIONS: [&str; 3] =
    ["ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeTrafficMirrorSessions"];

/// Returns the types of instances that the region has.
///
/// # Errors
///
/// Fails if the calls do.
pub async fn instance_types(client: &Client) -> Result<Vec<InstanceType>, CallError> {
    // The largest page of this operation.
    all_pages::<TypePage, _>(client, "DescribeInstanceTypes", 100).await
}

/// Returns all mirror sessions of the client's account and region.
///
/// # Errors
///
/// Fails if the calls do.
pub async fn sessions(client: &Client) -> Result<Vec<MirrorSession>, CallError> {
    all_pages::<SessionPage, _>(client, "DescribeTrafficMirrorSessions", PAGE).await
}

/// Returns all network interfaces that the client's account can see in the region.
///
/// # Errors
///
/// Fails if the calls do.
pub async fn interfaces(client: &Client) -> Result<Vec<Interface>, CallError> {
    all_pages::<InterfacePage, _>(client, "DescribeNetworkInterfaces", PAGE).await
}

/// Returns all instances of the client's account and region.
///
/// # Errors
///
/// Fails if the calls do.
pub async fn instances(client: &Client) -> Result<Vec<Instance>, CallError> {
    let reservations = all_pages::<ReservationPage, _>(client, "DescribeInstances", PAGE).await?;
    Ok(reservations.into_iter().flat_map(|reservation| reservation.instances_set.items).collect())
}

/// Calls an operation until its last page.
async fn all_pages<P, T>(client: &Client, action: &'static str, page: u32) -> Result<Vec<T>, CallError>
where
    P: serde::de::DeserializeOwned + Into<(Vec<T>, Option<String>)>,
{
    let (mut all, mut next) = (Vec::new(), None::<String>);
    for _ in 0..MAX_PAGES {
        let mut parameters: Parameters = vec![("MaxResults".to_owned(), page.to_string())];
        parameters.extend(next.iter().map(|token| ("NextToken".to_owned(), token.clone())));
        let page: P = client.ec2(action, &parameters).await?;
        let (items, token) = page.into();
        all.extend(items);
        // A mark that repeats itself would never end.
        match token.filter(|token| !token.is_empty()) {
            Some(token) if next.as_ref() != Some(&token) => next = Some(token),
            _ => return Ok(all),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_the_names_of_the_model() {
        let xml = r#"<?xml version="1.0"?>
            <DescribeTrafficMirrorSessionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
              <requestId>1</requestId>
              <trafficMirrorSessionSet>
                <item>
                  <trafficMirrorSessionId>tms-1</trafficMirrorSessionId>
                  <networkInterfaceId>eni-1</networkInterfaceId>
                  <virtualNetworkId>7</virtualNetworkId>
                  <packetLength>128</packetLength>
                  <tagSet><item><key>Name</key><value>a &amp; b</value></item><item><key>empty</key><value/></item></tagSet>
                </item>
                <item><trafficMirrorSessionId>tms-2</trafficMirrorSessionId><networkInterfaceId>eni-2</networkInterfaceId>
                <tagSet/></item>
              </trafficMirrorSessionSet>
              <nextToken>more</nextToken>
            </DescribeTrafficMirrorSessionsResponse>"#;
        let (sessions, next): (Vec<MirrorSession>, _) =
            quick_xml::de::from_str::<SessionPage>(xml).unwrap().into();
        assert_eq!(next.as_deref(), Some("more"));
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions[0].virtual_network_id, Some(7));
        assert_eq!(sessions[0].tag_set.get("Name"), Some("a & b"));
        assert_eq!(sessions[0].tag_set.get("empty"), Some(""));
        assert_eq!(sessions[1].virtual_network_id, None);

        let xml = r"<R><networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId>
            <description/><privateIpAddress>10.0.0.1</privateIpAddress>
            <privateIpAddressesSet><item><privateIpAddress>10.0.0.1</privateIpAddress><primary>true</primary></item>
            <item><privateIpAddress>10.0.0.2</privateIpAddress><primary>false</primary></item></privateIpAddressesSet>
            <ipv6AddressesSet><item><ipv6Address>fd00::1</ipv6Address></item></ipv6AddressesSet>
            <attachment><instanceId>i-1</instanceId><attachTime>2026-01-01T00:00:00.000Z</attachTime></attachment>
            </item></networkInterfaceSet></R>";
        let (interfaces, next): (Vec<Interface>, _) =
            quick_xml::de::from_str::<InterfacePage>(xml).unwrap().into();
        assert_eq!(next, None);
        let addresses: Vec<_> = interfaces[0].addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "fd00::1"]);

        let empty: (Vec<Reservation>, _) =
            quick_xml::de::from_str::<ReservationPage>("<R><reservationSet/></R>").unwrap().into();
        assert!(empty.0.is_empty());
    }
}
