//! A server with the part of EC2's and STS' Query APIs that describes what is mirrored: pages, roles with external ids,
//! denials, throttling. Names of fields are those of the service's model, version 2016-11-15.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mirror_xdp_tests::netns::Namespace;

use crate::signed::{self, Answer, Request};

pub(crate) const KEY_ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// The account of the key.
pub(crate) const OWN: &str = "111122223333";
/// The external id that every role requires.
pub(crate) const EXTERNAL_ID: &str = "secret & more";
/// The largest page of EC2.
const LARGEST_PAGE: usize = 1000;

/// A mirrored interface, and the instance that has it.
#[derive(Clone, Debug)]
pub(crate) struct Mirrored {
    pub(crate) vni: u32,
    pub(crate) source: String,
    pub(crate) name: String,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<String, Vec<Mirrored>>,
    /// Accounts and actions that are denied.
    denied: BTreeSet<(String, String)>,
    /// The codes of the next answers, whatever is asked.
    faults: VecDeque<(u16, &'static str)>,
    /// The account and action of each call.
    calls: Vec<(String, String)>,
}

/// The server. It lives as long as the test's process.
#[derive(Clone, Debug)]
pub(crate) struct Ec2 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Ec2 {
    /// Starts the server in a namespace.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let serving = Arc::clone(&state);
        let address = signed::serve(namespace, move |request| answer(&mut serving.lock().unwrap(), request));
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Adds mirrored interfaces to an account.
    pub(crate) fn add(&self, account: &str, mirrored: impl IntoIterator<Item = Mirrored>) {
        self.state.lock().unwrap().accounts.entry(account.to_owned()).or_default().extend(mirrored);
    }

    /// Denies an action in an account.
    pub(crate) fn deny(&self, account: &str, action: &str) {
        self.state.lock().unwrap().denied.insert((account.to_owned(), action.to_owned()));
    }

    /// Answers the next requests with these errors.
    pub(crate) fn fail(&self, faults: &[(u16, &'static str)]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// Returns the number of calls of each action in an account.
    pub(crate) fn calls(&self, account: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, action) in self.state.lock().unwrap().calls.iter().filter(|(of, _)| of == account) {
            *counts.entry(action.clone()).or_default() += 1;
        }
        counts
    }
}

fn answer(state: &mut State, request: &Request) -> Answer {
    let form = request.form();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let action = field("Action").to_owned();
    let key = request.key_id();
    let service = if action == "AssumeRole" { "sts" } else { "ec2" };
    if !request.is_signed(service, key, SECRET) {
        return error(403, "SignatureDoesNotMatch");
    }
    // The key of an assumed role is named after its account.
    let account = if key == KEY_ID { OWN } else { key.trim_start_matches("ASIA") }.to_owned();
    state.calls.push((account.clone(), action.clone()));
    if key != KEY_ID && request.headers.get("x-amz-security-token").is_none_or(|token| *token != account) {
        return error(401, "AuthFailure");
    }
    if let Some((status, code)) = state.faults.pop_front() {
        return error(status, code);
    }
    if state.denied.contains(&(account.clone(), action.clone())) {
        return error(403, "UnauthorizedOperation");
    }
    if action == "AssumeRole" {
        let role: Vec<_> = field("RoleArn").split(':').collect();
        if field("ExternalId") != EXTERNAL_ID || field("Version") != "2011-06-15" {
            let xml = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error>\
                       </ErrorResponse>";
            return Answer(403, Vec::new(), xml.into());
        }
        let account = role[4];
        return whole(&format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>ASIA{account}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
             <SessionToken>{account}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
             </AssumeRoleResult></AssumeRoleResponse>"
        ));
    }
    assert_eq!(field("Version"), "2016-11-15");
    let all = state.accounts.get(&account).map_or(&[][..], Vec::as_slice);
    let page: usize = field("MaxResults").parse().unwrap();
    assert!((5..=LARGEST_PAGE).contains(&page), "{page}");
    let begin: usize = field("NextToken").parse().unwrap_or(0);
    let end = all.len().min(begin + page);
    let (set, item): (_, fn(&str, usize, &Mirrored) -> String) = match action.as_str() {
        "DescribeTrafficMirrorSessions" => ("trafficMirrorSessionSet", session),
        "DescribeNetworkInterfaces" => ("networkInterfaceSet", interface),
        "DescribeInstances" => ("reservationSet", reservation),
        _ => return error(400, "InvalidAction"),
    };
    let mut xml = format!("<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><{set}>");
    for (number, mirrored) in all.iter().enumerate().take(end).skip(begin) {
        let _ = write!(xml, "<item>{}</item>", item(&account, number, mirrored));
    }
    let next = if end < all.len() { format!("<nextToken>{end}</nextToken>") } else { String::new() };
    whole(&format!("{xml}</{set}>{next}</{action}Response>"))
}

fn session(account: &str, number: usize, mirrored: &Mirrored) -> String {
    format!(
        "<trafficMirrorSessionId>tms-{account}-{number}</trafficMirrorSessionId>\
         <trafficMirrorTargetId>tmt-1</trafficMirrorTargetId><trafficMirrorFilterId>tmf-1</trafficMirrorFilterId>\
         <networkInterfaceId>eni-{account}-{number}</networkInterfaceId><ownerId>{account}</ownerId>\
         <sessionNumber>1</sessionNumber><virtualNetworkId>{}</virtualNetworkId><tagSet/>",
        mirrored.vni
    )
}

fn interface(account: &str, number: usize, mirrored: &Mirrored) -> String {
    format!(
        "<networkInterfaceId>eni-{account}-{number}</networkInterfaceId><vpcId>vpc-{account}</vpcId>\
         <subnetId>subnet-1</subnetId><description/><interfaceType>interface</interfaceType><ownerId>{account}</ownerId>\
         <privateIpAddress>{source}</privateIpAddress><privateIpAddressesSet><item><privateIpAddress>{source}\
         </privateIpAddress><primary>true</primary></item></privateIpAddressesSet>\
         <attachment><instanceId>i-{account}-{number}</instanceId><attachTime>2026-03-01T08:00:00.000Z</attachTime>\
         </attachment>",
        source = mirrored.source
    )
}

fn reservation(account: &str, number: usize, mirrored: &Mirrored) -> String {
    format!(
        "<reservationId>r-{number}</reservationId><instancesSet><item><instanceId>i-{account}-{number}</instanceId>\
         <instanceState><code>16</code><name>running</name></instanceState>\
         <tagSet><item><key>Name</key><value>{}</value></item><item><key>team</key><value>shop</value></item></tagSet>\
         </item></instancesSet>",
        mirrored.name
    )
}

fn whole(xml: &str) -> Answer {
    Answer(200, vec![("content-type", "text/xml;charset=UTF-8".to_owned())], xml.into())
}

fn error(status: u16, code: &str) -> Answer {
    let xml = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>refused</Message></Error></Errors>\
         <RequestID>1</RequestID></Response>"
    );
    Answer(status, Vec::new(), xml.into_bytes())
}
