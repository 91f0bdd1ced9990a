//! Describes the mirror sessions and the hosts of an account, as names for records.

use std::collections::{BTreeMap, HashMap};

use mirror_records::names::{Host, Session};

use crate::client::{CallError, Client};
use crate::ec2::{self, Instance, Interface, MirrorSession};

/// The sessions and hosts of an account in a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The sessions whose frames can be recognised.
    pub sessions: Vec<Session>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// More about each session, for people.
    pub details: Vec<Details>,
}

/// The parts of a session that do not change what records say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The session.
    pub session: String,
    /// The state of the mirrored instance, such as `stopped`: sessions of such instances cost money all the same.
    pub state: Option<String>,
    /// The time since which the mirrored interface is attached, RFC 3339.
    pub attached: Option<String>,
    /// The reason why frames of the session cannot be recognised.
    pub problem: Option<&'static str>,
    /// The session as far as it is known.
    pub interface: String,
    /// The target.
    pub target: Option<String>,
    /// The filter.
    pub filter: Option<String>,
    /// The VNI.
    pub vni: Option<u32>,
    /// The owner.
    pub account: Option<String>,
}

/// Asks for the sessions, interfaces and instances of the client's account and region. `tags` are the keys of the tags of
/// instances and interfaces that records show.
///
/// # Errors
///
/// Fails if a call does.
pub async fn describe(client: &Client, tags: &[String]) -> Result<Description, CallError> {
    let sessions = ec2::sessions(client).await?;
    let interfaces = ec2::interfaces(client).await?;
    let instances = ec2::instances(client).await?;
    Ok(joined(&client.settings().region, &sessions, &interfaces, &instances, tags))
}

fn joined(
    region: &str,
    sessions: &[MirrorSession],
    interfaces: &[Interface],
    instances: &[Instance],
    tags: &[String],
) -> Description {
    let instances: HashMap<_, _> =
        instances.iter().map(|instance| (instance.instance_id.as_str(), instance)).collect();
    let instance_of = |interface: &Interface| {
        let id = interface.attachment.as_ref()?.instance_id.as_deref()?;
        instances.get(id).copied()
    };
    let by_id: HashMap<_, _> =
        interfaces.iter().map(|interface| (interface.network_interface_id.as_str(), interface)).collect();
    let mut described = Description::default();
    for session in sessions {
        let interface = by_id.get(session.network_interface_id.as_str()).copied();
        let instance = interface.and_then(instance_of);
        let source = interface.and_then(|interface| interface.addresses().first().copied());
        let owner = interface.map(|interface| Owner::of(interface, instance));
        described.details.push(Details {
            session: session.traffic_mirror_session_id.clone(),
            state: instance.and_then(|instance| Some(instance.instance_state.as_ref()?.name.clone())),
            attached: interface.and_then(|interface| interface.attachment.as_ref()?.attach_time.clone()),
            problem: match (session.virtual_network_id, interface, source) {
                (None, ..) => Some("has no VNI"),
                (_, None, _) => Some("mirrors an interface that cannot be seen"),
                (_, _, None) => Some("mirrors an interface without address"),
                _ => None,
            },
            interface: session.network_interface_id.clone(),
            target: session.traffic_mirror_target_id.clone(),
            filter: session.traffic_mirror_filter_id.clone(),
            vni: session.virtual_network_id,
            account: session.owner_id.clone(),
        });
        let (Some(vni), Some(interface), Some(source), Some(owner)) =
            (session.virtual_network_id, interface, source, owner)
        else {
            continue;
        };
        let tag = |key: &String| {
            let value = instance.and_then(|instance| instance.tag_set.get(key));
            Some((key.clone(), value.or_else(|| interface.tag_set.get(key))?.to_owned()))
        };
        described.sessions.push(Session {
            vni,
            source,
            session: Some(session.traffic_mirror_session_id.clone()),
            interface: Some(interface.network_interface_id.clone()),
            instance: owner.id,
            name: owner.name,
            vpc: interface.vpc_id.clone(),
            subnet: interface.subnet_id.clone(),
            account: session.owner_id.clone().or_else(|| interface.owner_id.clone()),
            region: Some(region.to_owned()),
            target: session.traffic_mirror_target_id.clone(),
            filter: session.traffic_mirror_filter_id.clone(),
            tags: tags.iter().filter_map(tag).collect::<BTreeMap<_, _>>(),
            as_of: None,
        });
    }
    for interface in interfaces {
        let owner = Owner::of(interface, instance_of(interface));
        let addresses = interface.addresses();
        let Some(name) = owner.name.or_else(|| owner.id.clone()) else { continue };
        if !addresses.is_empty() {
            described.hosts.push(Host {
                vpc: interface.vpc_id.clone(),
                addresses,
                name,
                kind: Some(owner.kind.to_owned()),
                id: owner.id,
            });
        }
    }
    described.sessions.sort();
    described.hosts.sort();
    described.details.sort_by(|a, b| a.session.cmp(&b.session));
    described
}

/// The owner of an interface.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    kind: &'static str,
    /// Identifier of the instance, load balancer, endpoint …
    id: Option<String>,
    /// Name for people.
    name: Option<String>,
}

impl Owner {
    /// Tells who has an interface: the instance that it is attached to, or else the service that its description or its
    /// type names. The descriptions are not documented as a whole; those of other forms are left as they are.
    fn of(interface: &Interface, instance: Option<&Instance>) -> Self {
        let attached = interface.attachment.as_ref().and_then(|attachment| attachment.instance_id.clone());
        // Services attach interfaces to instances of their own, which have other forms or none.
        if let Some(id) = attached.filter(|id| id.starts_with("i-")) {
            let name = instance.and_then(|instance| instance.tag_set.get("Name"));
            return Self { kind: "instance", id: Some(id), name: name.map(ToOwned::to_owned) };
        }
        let text = interface.description.as_str();
        let tag = |key| interface.tag_set.get(key).map(ToOwned::to_owned);
        let owner = |kind, id: Option<&str>, name: Option<&str>| Self {
            kind,
            id: id.map(ToOwned::to_owned),
            name: name.map(ToOwned::to_owned),
        };
        let word = |prefix: &str| {
            text.split([' ', '(', ')', ':', ','])
                .find(|word| word.starts_with(prefix) && word.len() > prefix.len())
        };
        if let Some(balancer) = text.strip_prefix("ELB ") {
            // `app/NAME/ID`, `net/NAME/ID`, `gwy/NAME/ID`, or the name of a classic one.
            let mut parts = balancer.split('/');
            return match (parts.next(), parts.next()) {
                (Some("app" | "net" | "gwy"), Some(name)) => {
                    owner("load_balancer", Some(balancer), Some(name))
                }
                _ => owner("load_balancer", Some(balancer), Some(balancer)),
            };
        }
        if let Some(function) = text.strip_prefix("AWS Lambda VPC ENI-") {
            // The name and a UUID of 36 characters.
            let name = function.len().checked_sub(37).and_then(|end| function.get(..end)).unwrap_or(function);
            return owner("lambda", None, Some(name));
        }
        if text == "RDSNetworkInterface" {
            return Self { kind: "rds", id: Some(interface.network_interface_id.clone()), name: tag("Name") };
        }
        if let Some(cluster) = text.strip_prefix("ElastiCache ") {
            return owner("elasticache", Some(cluster), Some(cluster));
        }
        if let Some(cluster) = text.strip_prefix("Amazon EKS ") {
            return owner("eks", Some(cluster), Some(cluster));
        }
        if text.starts_with("arn:aws") && text.contains(":ecs:") {
            // The interface of a task: ECS tags it where that is switched on.
            let name = tag("aws:ecs:serviceName").or_else(|| tag("Name"));
            let task = text.rsplit('/').next();
            return Self { kind: "ecs_task", id: task.map(ToOwned::to_owned), name };
        }
        for (prefix, kind) in [
            ("vpce-", "vpc_endpoint"),
            ("nat-", "nat_gateway"),
            ("fs-", "efs"),
            ("tgw-attach-", "transit_gateway"),
        ] {
            if let Some(id) = word(prefix) {
                return Self { kind, id: Some(id.to_owned()), name: tag("Name") };
            }
        }
        let kind = match interface.interface_type.as_deref() {
            Some("natGateway" | "nat_gateway") => "nat_gateway",
            Some("vpc_endpoint" | "gateway_load_balancer_endpoint") => "vpc_endpoint",
            Some("lambda") => "lambda",
            Some("transit_gateway") => "transit_gateway",
            Some("load_balancer" | "network_load_balancer" | "gateway_load_balancer") => "load_balancer",
            _ => "interface",
        };
        Self {
            kind,
            id: Some(interface.network_interface_id.clone()),
            name: tag("Name").or_else(|| Some(text.to_owned()).filter(|text| !text.is_empty())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(xml: &str) -> Interface {
        let xml = format!("<item><networkInterfaceId>eni-1</networkInterfaceId>{xml}</item>");
        quick_xml::de::from_str(&xml).unwrap()
    }

    #[test]
    fn owners_are_named_by_description_and_type() {
        let of = |description: &str, kind: &str| {
            let text =
                format!("<description>{description}</description><interfaceType>{kind}</interfaceType>");
            let Owner { kind, id, name } = Owner::of(&interface(&text), None);
            format!("{kind} {} {}", id.unwrap_or_default(), name.unwrap_or_default())
        };
        for (description, kind, owner) in [
            ("ELB app/shop/0123456789abcdef", "interface", "load_balancer app/shop/0123456789abcdef shop"),
            ("ELB net/tcp/01", "network_load_balancer", "load_balancer net/tcp/01 tcp"),
            ("ELB old", "interface", "load_balancer old old"),
            ("ELB ", "interface", "load_balancer  "),
            ("AWS Lambda VPC ENI-bill-0a1b2c3d-0000-1111-2222-333344445555", "lambda", "lambda  bill"),
            ("AWS Lambda VPC ENI-é", "lambda", "lambda  é"),
            ("RDSNetworkInterface", "interface", "rds eni-1 "),
            ("ElastiCache sessions-001", "interface", "elasticache sessions-001 sessions-001"),
            ("VPC Endpoint Interface vpce-0a1b", "vpc_endpoint", "vpc_endpoint vpce-0a1b "),
            ("Interface for NAT Gateway nat-0a1b", "natGateway", "nat_gateway nat-0a1b "),
            ("EFS mount target for fs-0a1b (fsmt-2c3d)", "interface", "efs fs-0a1b "),
            (
                "arn:aws:ecs:eu-central-1:111122223333:attachment/0a1b-2c3d",
                "interface",
                "ecs_task 0a1b-2c3d ",
            ),
            ("my own", "interface", "interface eni-1 my own"),
            ("", "gateway_load_balancer_endpoint", "vpc_endpoint eni-1 "),
        ] {
            assert_eq!(of(description, kind), owner, "{description}");
        }
    }

    #[test]
    fn sessions_without_an_address_are_told_apart_but_not_written() {
        let session = |id: &str, interface: &str, vni: &str| -> MirrorSession {
            let xml = format!(
                "<item><trafficMirrorSessionId>{id}</trafficMirrorSessionId><networkInterfaceId>{interface}\
                 </networkInterfaceId>{vni}</item>"
            );
            quick_xml::de::from_str(&xml).unwrap()
        };
        let vni = "<virtualNetworkId>7</virtualNetworkId>";
        let sessions =
            [session("tms-1", "eni-1", vni), session("tms-2", "eni-9", vni), session("tms-3", "eni-1", "")];
        let interfaces = [interface(
            "<privateIpAddress>10.0.0.1</privateIpAddress><vpcId>vpc-1</vpcId>\
             <attachment><instanceId>i-1</instanceId></attachment>",
        )];
        let instances: [Instance; 1] = [quick_xml::de::from_str(
            "<item><instanceId>i-1</instanceId><instanceState><name>stopped</name></instanceState>\
             <tagSet><item><key>Name</key><value>web</value></item><item><key>team</key><value>shop</value></item>\
             </tagSet></item>",
        )
        .unwrap()];
        let described = joined("eu-central-1", &sessions, &interfaces, &instances, &["team".to_owned()]);
        assert_eq!(described.sessions.len(), 1);
        let session = &described.sessions[0];
        assert_eq!((session.vni, session.source.to_string().as_str()), (7, "10.0.0.1"));
        assert_eq!(session.name.as_deref(), Some("web"));
        assert_eq!(session.tags.get("team").map(String::as_str), Some("shop"));
        let problems: Vec<_> = described.details.iter().map(|details| details.problem).collect();
        assert_eq!(problems, [None, Some("mirrors an interface that cannot be seen"), Some("has no VNI")]);
        assert_eq!(described.details[0].state.as_deref(), Some("stopped"));
        assert_eq!(described.hosts.len(), 1);
        assert_eq!(described.hosts[0].name, "web");
    }
}
