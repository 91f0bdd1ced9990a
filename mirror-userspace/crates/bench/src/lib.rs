//! Nothing but the benchmark `worker`, see `benches/`.
