//! The metrics in Prometheus' text format 0.0.4, built from the table of counters for each scrape.
//!
//! The format is written here. The crate `prometheus-client` writes `OpenMetrics`, where a family is named without the
//! `_total` of its counters (`# TYPE mirror_xdp_frames_seen counter`) and each text ends in `# EOF`. The names of
//! families would then change, and readers of format 0.0.4, such as `promtool check metrics`, would take the counters
//! for untyped ones. The crate `prometheus` needs its own copy of each sample, converts counts to floating-point
//! numbers, and offers nothing else that a scrape of ready counters could use.

use std::fmt::{self, Write as _};

use crate::counters::{COUNTERS, CounterSpec, PREFIX, Sample, Source, Value};

/// The content type.
pub(super) const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// Returns all metrics as text, without those that have no samples.
pub(super) fn exposition(source: &Source<'_>) -> String {
    let mut text = String::new();
    for spec in COUNTERS {
        // Writing to a string cannot fail.
        let _ = family(&mut text, spec, &spec.samples(source));
    }
    text
}

fn family(text: &mut String, spec: &CounterSpec, samples: &[Sample]) -> fmt::Result {
    if samples.is_empty() {
        return Ok(());
    }
    let name = spec.name();
    write!(text, "# HELP {name} ")?;
    push_escaped(text, spec.help, false);
    writeln!(text, "\n# TYPE {name} {}", spec.kind.name())?;
    for Sample { labels, value } in samples {
        let named = || spec.labels.iter().copied().zip(labels.iter().map(String::as_str));
        match value {
            Value::Count(count) => line(text, spec, "", named(), None, count)?,
            Value::Number(number) => line(text, spec, "", named(), None, number)?,
            Value::Histogram(buckets, sum, count) => {
                for (bound, below) in buckets {
                    line(text, spec, "_bucket", named(), Some(&bound.to_string()), below)?;
                }
                line(text, spec, "_bucket", named(), Some("+Inf"), count)?;
                line(text, spec, "_sum", named(), None, sum)?;
                line(text, spec, "_count", named(), None, count)?;
            }
        }
    }
    Ok(())
}

/// Writes the line of one sample. Labels without a value are omitted.
fn line<'l>(
    text: &mut String,
    spec: &CounterSpec,
    suffix: &str,
    labels: impl Iterator<Item = (&'l str, &'l str)>,
    bound: Option<&'l str>,
    value: &impl fmt::Display,
) -> fmt::Result {
    write!(text, "{PREFIX}{}{suffix}", spec.metric)?;
    let mut before = '{';
    for (name, value) in labels.chain(bound.map(|bound| ("le", bound))).filter(|(_, value)| !value.is_empty())
    {
        write!(text, "{before}{name}=\"")?;
        push_escaped(text, value, true);
        text.push('"');
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
    writeln!(text, " {value}")
}

/// Appends a help text, or the value of a label, in which quotation marks are escaped as well.
fn push_escaped(text: &mut String, unescaped: &str, quoted: bool) {
    for character in unescaped.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quoted => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Kind, Stage};

    fn spec(metric: &str) -> &'static CounterSpec {
        COUNTERS.iter().find(|spec| spec.metric == metric).unwrap()
    }

    fn text(metric: &str, labels: &[&str], value: Value) -> String {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let mut text = String::new();
        family(&mut text, spec(metric), &[Sample { labels, value }]).unwrap();
        text
    }

    #[test]
    fn names_of_sets_cannot_leave_their_label() {
        let labels = ["v0", "a\"b\\c\n# TYPE x counter", "1", "", "accept"];
        let text = text("rule_packets_total", &labels, Value::Count(3));
        let [help, kind, line] = &text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(help.starts_with("# HELP mirror_xdp_rule_packets_total Packets that a rule decided on;"));
        assert_eq!(*kind, "# TYPE mirror_xdp_rule_packets_total counter");
        let expected = r#"mirror_xdp_rule_packets_total{interface="v0",set="a\"b\\c\n# TYPE x counter",rule="1",action="accept"} 3"#;
        assert_eq!(*line, expected);
    }

    #[test]
    fn histograms_have_cumulative_buckets_a_sum_and_a_count() {
        assert_eq!(spec("service_latency_seconds").kind, Kind::Histogram);
        let value = Value::Histogram(vec![(0.25, 2), (1.0, 3)], 4.5, 5);
        let text = text("service_latency_seconds", &["", "10.0.0.1"], value);
        let lines: Vec<_> =
            text.lines().skip(2).map(|line| line.replace("mirror_xdp_service_latency_seconds", "")).collect();
        assert_eq!(
            lines,
            [
                r#"_bucket{address="10.0.0.1",le="0.25"} 2"#,
                r#"_bucket{address="10.0.0.1",le="1"} 3"#,
                r#"_bucket{address="10.0.0.1",le="+Inf"} 5"#,
                r#"_sum{address="10.0.0.1"} 4.5"#,
                r#"_count{address="10.0.0.1"} 5"#,
            ]
        );
    }

    #[test]
    fn counts_beyond_the_range_of_floats_stay_exact() {
        let text = text("records_lost_total", &[], Value::Count(u64::MAX));
        assert!(text.ends_with("\nmirror_xdp_records_lost_total 18446744073709551615\n"), "{text}");
        assert_eq!(spec("records_lost_total").stage, Stage::Records);
    }
}
