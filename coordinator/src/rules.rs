//! PURE: the table of who may call what. A method without a row does not compile.

use fedpaint_proto::v1;

use crate::roster::OperatorRole::{self, Admin, Approver, Auditor, Runner, Viewer};

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// At most [`fedpaint_proto::limits::CALL_TIMEOUT`], until the answer or the head of a stream of answers.
    Shortly,
    /// A whole model is read: the request has to be there within the same time, the work may last.
    Long,
    /// A whole model is moved: the blob service watches that bytes keep moving.
    Paced,
}

/// Who may call a method.
#[derive(Debug)]
pub struct Rule {
    /// The method, such as `/fedpaint.v1.AdminService/GetStatus`.
    pub path: &'static str,
    /// Whether sites may.
    pub sites: bool,
    /// The operators who may: those with any of these roles.
    pub operators: &'static [OperatorRole],
    /// Whether who has no certificate may, and nobody else.
    pub strangers: bool,
    /// Whether it changes something. Then the same request may come twice, late, or behind one that was made
    /// after it; a test makes each of these calls twice.
    pub changes: bool,
    /// How long the call may take.
    pub lasts: Lasts,
}

/// Every role that may look.
const ALL: &[OperatorRole] = &[Viewer, Runner, Approver, Auditor, Admin];
const NONE: &[OperatorRole] = &[];
const RUN: &[OperatorRole] = &[Runner, Admin];
const ADMIT: &[OperatorRole] = &[Approver, Admin];
const AUDIT: &[OperatorRole] = &[Auditor, Admin];
const MANAGE: &[OperatorRole] = &[Admin];

const fn rule(path: &'static str, sites: bool, operators: &'static [OperatorRole]) -> Rule {
    Rule { path, sites, operators, strangers: false, changes: false, lasts: Lasts::Shortly }
}

/// A call of sites alone.
const fn site(path: &'static str) -> Rule {
    rule(path, true, NONE)
}

/// A call of operators alone, of any of these roles.
const fn desk(path: &'static str, operators: &'static [OperatorRole]) -> Rule {
    rule(path, false, operators)
}

const fn stranger(path: &'static str) -> Rule {
    Rule { strangers: true, ..rule(path, false, NONE) }
}

const fn changes(rule: Rule) -> Rule {
    Rule { changes: true, ..rule }
}

const fn long(rule: Rule) -> Rule {
    Rule { lasts: Lasts::Long, ..rule }
}

const fn paced(rule: Rule) -> Rule {
    Rule { lasts: Lasts::Paced, ..rule }
}

/// Every method there is.
pub const TABLE: &[Rule] = &[
    changes(stranger("/fedpaint.v1.EnrolmentService/Join")),
    changes(rule("/fedpaint.v1.IdentityService/Renew", true, ALL)),
    changes(site("/fedpaint.v1.FederationService/Heartbeat")),
    site("/fedpaint.v1.FederationService/PreviewWork"),
    site("/fedpaint.v1.FederationService/GetRunPlan"),
    changes(long(site("/fedpaint.v1.FederationService/SubmitUpdate"))),
    rule("/fedpaint.v1.BlobService/GetUploadStatus", true, RUN),
    changes(paced(rule("/fedpaint.v1.BlobService/Upload", true, RUN))),
    rule("/fedpaint.v1.BlobService/Download", true, RUN),
    rule("/fedpaint.v1.BlobService/GetManifest", true, RUN),
    desk("/fedpaint.v1.AdminService/GetStatus", ALL),
    changes(desk("/fedpaint.v1.AdminService/EnrollSite", MANAGE)),
    desk("/fedpaint.v1.AdminService/ListSites", ALL),
    changes(desk("/fedpaint.v1.AdminService/RevokeSite", ADMIT)),
    changes(desk("/fedpaint.v1.AdminService/InviteSite", ADMIT)),
    changes(desk("/fedpaint.v1.AdminService/ApproveSite", ADMIT)),
    changes(desk("/fedpaint.v1.AdminService/RejectSite", ADMIT)),
    desk("/fedpaint.v1.AdminService/ListOperators", ALL),
    changes(desk("/fedpaint.v1.AdminService/SetOperator", MANAGE)),
    desk("/fedpaint.v1.AdminService/ListProposals", ALL),
    changes(desk("/fedpaint.v1.AdminService/ApproveProposal", ADMIT)),
    changes(long(desk("/fedpaint.v1.AdminService/CreateRun", RUN))),
    desk("/fedpaint.v1.AdminService/GetRun", ALL),
    desk("/fedpaint.v1.AdminService/ListRuns", ALL),
    changes(desk("/fedpaint.v1.AdminService/PauseRun", RUN)),
    changes(desk("/fedpaint.v1.AdminService/ResumeRun", RUN)),
    changes(desk("/fedpaint.v1.AdminService/StopRun", RUN)),
    changes(desk("/fedpaint.v1.AdminService/ReadmitSite", RUN)),
    desk("/fedpaint.v1.AdminService/WatchRun", ALL),
    desk("/fedpaint.v1.AdminService/GetRound", ALL),
    desk("/fedpaint.v1.AdminService/ListRounds", ALL),
    changes(desk("/fedpaint.v1.AdminService/CloseRound", RUN)),
    changes(desk("/fedpaint.v1.AdminService/AbandonRound", RUN)),
    desk("/fedpaint.v1.AdminService/ListModels", ALL),
    desk("/fedpaint.v1.AdminService/ListEvents", AUDIT),
    desk("/fedpaint.v1.AdminService/GetLogHead", AUDIT),
    desk("/fedpaint.v1.AdminService/ExportLog", AUDIT),
];

// Every method of the .proto files has one row, and every row is that of a method.
const _: () = {
    assert!(
        TABLE.len() == v1::METHODS.len(),
        "a method has no row in the table, or a row no method"
    );
    let mut method = 0;
    while method < v1::METHODS.len() {
        let (mut row, mut rows) = (0, 0);
        while row < TABLE.len() {
            rows += same(v1::METHODS[method].as_bytes(), TABLE[row].path.as_bytes()) as usize;
            row += 1;
        }
        assert!(rows == 1, "a method has no row in the table, or two");
        method += 1;
    }
};

/// `==` is not for constants yet.
const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Who may call the method of this path, if there is one.
pub fn of(path: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the names of methods begin that change nothing; who takes a model out is in the audit log.
    const LOOKS: [&str; 6] = ["Get", "List", "Watch", "Export", "Download", "Preview"];

    #[test]
    fn a_service_is_open_to_whom_it_is_for() {
        for rule in TABLE {
            let service = rule.path.split('/').nth(1).unwrap();
            let (sites, operators) = (rule.sites, !rule.operators.is_empty());
            let expected = match service {
                "fedpaint.v1.EnrolmentService" => (false, false, true),
                "fedpaint.v1.FederationService" => (true, false, false),
                "fedpaint.v1.AdminService" => (false, true, false),
                _ => (true, true, false),
            };
            assert_eq!((sites, operators, rule.strangers), expected, "{}", rule.path);
            // An admin may do all that any operator may.
            assert!(!operators || rule.operators.contains(&Admin), "{}", rule.path);
        }
    }

    #[test]
    fn a_method_changes_something_unless_its_name_says_that_it_looks() {
        for rule in TABLE {
            let method = rule.path.rsplit('/').next().unwrap();
            let looks = LOOKS.iter().any(|verb| method.starts_with(verb));
            assert_eq!(rule.changes, !looks, "{}", rule.path);
        }
    }

    #[test]
    fn a_method_that_is_not_there_has_no_rule() {
        for path in ["/fedpaint.v1.AdminService/Shutdown", "/", "/grpc.health.v1.Health/Check"] {
            assert!(of(path).is_none());
        }
        assert!(of(TABLE[0].path).is_some());
    }
}
