//! Records, from capture files to `eve.json`: compared with Suricata's (`corpus`), bounded for an attacker
//! (`hostile_records`), reported by the binary (`read`), the same for any number of workers (`workers`), and
//! extended by a user's analyzer (`own_analyzer`). The tests are one program, which is linked once.

mod corpus;
mod hostile_records;
mod http2;
mod own_analyzer;
mod read;
mod workers;
