//! Sinks: threads of their own that turn records into files. A worker hands records over through a
//! bounded queue; live, a full queue costs the record, counted, and never the worker's time.
