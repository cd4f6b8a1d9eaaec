//! Storage commitment, the part that is asked (PS3.4 J): which of these instances do you keep?
//!
//! Comes in: the data set of an N-ACTION. Goes out: a question that is durable before the N-ACTION is answered with
//! success, and later the report on it, which says what is on disk at that moment.
//!
//! ```text
//! commitments/TRANSACTION-UID.json   asked, and the report has not been taken yet
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::spool::{Spool, SpoolError, make_folder, sync_folder, write_durably};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::dicom::dimse::ActionStatus;
use crate::vocabulary::dicom::instance::{InstanceLimits, parse_data_set};
use crate::vocabulary::dicom::{
    AeTitle, SeriesInstanceUid, SopClassUid, SopInstanceUid, TransactionUid, TransferSyntaxUid,
};

/// The longest question, bytes: a reference takes some 150.
const LONGEST_QUESTION: usize = 2_000_000;

/// References in one question.
const MOST_REFERENCES: usize = 10_000;

/// Questions whose report has not been taken yet, of all and of one AE title.
const MOST_WAITING: usize = 1_000;
const MOST_WAITING_OF_ONE: usize = 200;

/// Hints on their way to the gathering; more are dropped, and the series wait out their quiet time.
const HINTS: usize = 64;

/// A question about fewer instances of a series says nothing about its end: many scanners ask for each image.
const FEWEST_OF_A_SERIES: u32 = 4;

/// Failure Reason (0008,1197): the object is not here.
const NO_SUCH_OBJECT: u16 = 0x0112;
/// Failure Reason: it is here as an instance of another class.
const CLASS_INSTANCE_CONFLICT: u16 = 0x0119;
/// Failure Reason: the disk does not say.
const PROCESSING_FAILURE: u16 = 0x0110;

/// An instance that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    class: SopClassUid,
    instance: SopInstanceUid,
}

/// A question that was answered with success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pledge {
    /// Names the question and its report.
    pub transaction_uid: TransactionUid,
    /// Who asked.
    pub calling_ae_title: AeTitle,
    /// When, ms since 1970.
    pub asked_ms: i64,
    references: Vec<Reference>,
}

/// How it is kept.
#[derive(Serialize, Deserialize)]
struct InFile {
    calling_ae_title: String,
    asked_ms: i64,
    /// SOP Class UID and SOP Instance UID.
    references: Vec<(String, String)>,
}

/// What is kept and what is not (PS3.4 J.3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitmentReport {
    transaction_uid: TransactionUid,
    kept: Vec<Reference>,
    /// With Failure Reason (0008,1197).
    failed: Vec<(Reference, u16)>,
}

/// Somebody asked for the commitment of all the instances that he sent of a series, and they are all here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesHint {
    /// Which.
    pub series_instance_uid: SeriesInstanceUid,
    /// How many he asked for.
    pub n_instances: u32,
}

/// Why a question is not kept or a report not made.
#[derive(Debug, thiserror::Error)]
pub enum PledgeError {
    /// The disk.
    #[error("a question about storage commitment cannot be kept")]
    Spool(#[source] SpoolError),
    /// A file of ours is gone or damaged.
    #[error(
        "{path} cannot be read: remove it, and have the storage commitment that it is named after asked for again"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The questions whose report has not been taken yet.
#[derive(Debug)]
pub struct Pledges {
    folder: PathBuf,
    spool: Arc<Spool>,
    waiting: Mutex<BTreeMap<TransactionUid, Waiting>>,
    /// Who gets the report over an association of ours; all others get it over the one that asked.
    called_back: Mutex<BTreeSet<AeTitle>>,
    /// One question is read and written at a time, so that their memory is bounded.
    taking: Mutex<()>,
    hints: mpsc::Sender<SeriesHint>,
}

/// A question whose report has not been taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Who asked.
    pub calling_ae_title: AeTitle,
    /// When, ms since 1970.
    pub asked_ms: i64,
    /// Since when this process knows of it.
    pub since: Instant,
}

impl Waiting {
    fn of(pledge: &Pledge) -> Self {
        let (calling_ae_title, asked_ms) = (pledge.calling_ae_title.clone(), pledge.asked_ms);
        Self { calling_ae_title, asked_ms, since: Instant::now() }
    }
}

impl Pledges {
    /// Opens or makes the folder, and takes over what an earlier process had not reported.
    ///
    /// # Errors
    /// [`PledgeError`] where the folder cannot be used.
    pub fn open(
        data_folder: &Path,
        spool: Arc<Spool>,
    ) -> Result<(Self, mpsc::Receiver<SeriesHint>), PledgeError> {
        let folder = data_folder.join("commitments");
        make_folder(&folder).map_err(PledgeError::Spool)?;
        let (hints, hinted) = mpsc::channel(HINTS);
        let failed = |source| {
            PledgeError::Spool(SpoolError::Io { operation: "reading", path: folder.clone(), source })
        };
        let mut waiting = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let uid = path.file_stem().and_then(|stem| stem.to_str()).and_then(|uid| uid.parse().ok());
            match (path.extension().and_then(|extension| extension.to_str()), uid) {
                (Some("json"), Some(uid)) => match read(&folder, &uid) {
                    Ok(pledge) => drop(waiting.insert(uid, Waiting::of(&pledge))),
                    Err(error) => tracing::error!(error = with_causes(&error), "left alone"),
                },
                // Nobody was told success.
                (Some("part"), _) => drop(fs::remove_file(&path)),
                _ => tracing::warn!(path = %path.display(), "not one of our files; left alone"),
            }
        }
        let pledges = Self {
            folder,
            spool,
            waiting: Mutex::new(waiting),
            called_back: Mutex::default(),
            taking: Mutex::new(()),
            hints,
        };
        Ok((pledges, hinted))
    }

    /// Keeps a question, durably, or says why not. The same question again changes nothing. Blocks.
    pub(super) fn take(
        &self,
        calling: &AeTitle,
        data_set: Vec<u8>,
        transfer_syntax: &TransferSyntaxUid,
    ) -> Result<TransactionUid, ActionStatus> {
        // A bucket does not say in which series an instance is.
        if self.spool.is_shared() {
            return Err(ActionStatus::ProcessingFailure);
        }
        let _one_at_a_time = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if data_set.len() > LONGEST_QUESTION {
            return Err(ActionStatus::ResourceLimitation);
        }
        let Some((transaction_uid, references)) = parse(data_set, transfer_syntax) else {
            return Err(ActionStatus::InvalidArgument);
        };
        if references.len() > MOST_REFERENCES {
            return Err(ActionStatus::ResourceLimitation);
        }
        let asked_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let pledge = Pledge {
            transaction_uid: transaction_uid.clone(),
            calling_ae_title: calling.clone(),
            asked_ms: i64::try_from(asked_ms).unwrap_or(i64::MAX),
            references,
        };
        let of_one = |waiting: &Waiting| waiting.calling_ae_title == *calling;
        let (n_waiting, n_of_one) = {
            let waiting = self.waiting();
            (waiting.len(), waiting.values().filter(|waiting| of_one(waiting)).count())
        };
        if self.waiting().contains_key(&transaction_uid) {
            let is_same = read(&self.folder, &transaction_uid).is_ok_and(|known| {
                known.calling_ae_title == *calling && known.references == pledge.references
            });
            return if is_same { Ok(transaction_uid) } else { Err(ActionStatus::DuplicateTransaction) };
        }
        if n_waiting >= MOST_WAITING || n_of_one >= MOST_WAITING_OF_ONE {
            return Err(ActionStatus::ResourceLimitation);
        }
        if let Err(error) = self.keep(&pledge) {
            tracing::error!(%calling, error = with_causes(&error), "a question about storage commitment cannot be kept");
            return Err(ActionStatus::ProcessingFailure);
        }
        self.waiting().insert(transaction_uid.clone(), Waiting::of(&pledge));
        self.hint(&pledge);
        Ok(transaction_uid)
    }

    fn keep(&self, pledge: &Pledge) -> Result<(), SpoolError> {
        let text = |r: &Reference| (r.class.to_string(), r.instance.to_string());
        let file = InFile {
            calling_ae_title: pledge.calling_ae_title.to_string(),
            asked_ms: pledge.asked_ms,
            references: pledge.references.iter().map(text).collect(),
        };
        let json = serde_json::to_vec(&file).expect("texts and a number have a JSON form");
        let path = path_of(&self.folder, &pledge.transaction_uid);
        let temporary = path.with_extension("part");
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Io { operation, path, source }
        };
        if temporary.exists() {
            fs::remove_file(&temporary).map_err(failed("removing", &temporary))?;
        }
        write_durably(&temporary, &[&json])?;
        fs::rename(&temporary, &path).map_err(failed("renaming", &temporary))?;
        sync_folder(&self.folder)
    }

    /// Tells the gathering which series are whole by this question: all that it asks for is here.
    fn hint(&self, pledge: &Pledge) {
        let mut n_instances: BTreeMap<SeriesInstanceUid, u32> = BTreeMap::new();
        for reference in &pledge.references {
            let Some(series) = self.spool.series_of(&reference.instance) else { return };
            *n_instances.entry(series).or_default() += 1;
        }
        n_instances.retain(|_, n| *n >= FEWEST_OF_A_SERIES);
        for (series_instance_uid, n_instances) in n_instances {
            if self.hints.try_send(SeriesHint { series_instance_uid, n_instances }).is_err() {
                tracing::debug!("a hint that a series is whole was dropped");
            }
        }
    }

    /// The questions whose report has not been taken yet.
    #[must_use]
    pub fn all(&self) -> BTreeMap<TransactionUid, Waiting> {
        self.waiting().clone()
    }

    /// A question and the report on it: what is on disk now. Blocks.
    ///
    /// # Errors
    /// [`PledgeError`] where the question cannot be read any more.
    pub fn report(
        &self,
        transaction_uid: &TransactionUid,
    ) -> Result<(Pledge, CommitmentReport), PledgeError> {
        let pledge = read(&self.folder, transaction_uid)?;
        let (mut kept, mut failed) = (Vec::new(), Vec::new());
        for reference in &pledge.references {
            match self.spool.class_of(&reference.instance) {
                Ok(Some(class)) if class == reference.class => kept.push(reference.clone()),
                Ok(Some(_other)) => failed.push((reference.clone(), CLASS_INSTANCE_CONFLICT)),
                Ok(None) => failed.push((reference.clone(), NO_SUCH_OBJECT)),
                Err(error) => {
                    tracing::error!(error = with_causes(&error), "an instance cannot be committed");
                    failed.push((reference.clone(), PROCESSING_FAILURE));
                }
            }
        }
        let report = CommitmentReport { transaction_uid: transaction_uid.clone(), kept, failed };
        Ok((pledge, report))
    }

    /// The report was taken, or is given up: the question is forgotten. Blocks.
    pub fn forget(&self, transaction_uid: &TransactionUid) {
        let path = path_of(&self.folder, transaction_uid);
        if let Err(error) = fs::remove_file(&path) {
            // It is reported once more after the next start, which does no harm.
            tracing::warn!(path = %path.display(), %error, "a reported storage commitment cannot be removed");
        }
        self.waiting().remove(transaction_uid);
    }

    /// These get the report over an association of ours; all others get it over the one that asked.
    pub fn call_back(&self, titles: BTreeSet<AeTitle>) {
        *self.called_back.lock().unwrap_or_else(PoisonError::into_inner) = titles;
    }

    /// Whether the report to this peer goes over an association of ours.
    pub(super) fn is_called_back(&self, calling: &AeTitle) -> bool {
        self.called_back.lock().unwrap_or_else(PoisonError::into_inner).contains(calling)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<TransactionUid, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitmentReport {
    /// Event Type ID: 1 where all is kept, 2 where something is not (PS3.4 J.3.3).
    #[must_use]
    pub fn event_type(&self) -> u16 {
        if self.failed.is_empty() { 1 } else { 2 }
    }

    /// How many instances are kept, and how many not.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.kept.len(), self.failed.len())
    }

    /// The data set of N-EVENT-REPORT; `None` for a transfer syntax that is not in the registry.
    #[must_use]
    pub fn encode(&self, transfer_syntax: &TransferSyntaxUid) -> Option<Vec<u8>> {
        let uid = |tag, value: &str| DataElement::new(tag, VR::UI, PrimitiveValue::from(value));
        let item = |reference: &Reference| {
            InMemDicomObject::from_element_iter([
                uid(tags::REFERENCED_SOP_CLASS_UID, reference.class.as_str()),
                uid(tags::REFERENCED_SOP_INSTANCE_UID, reference.instance.as_str()),
            ])
        };
        let mut object = InMemDicomObject::new_empty();
        object.put(uid(tags::TRANSACTION_UID, self.transaction_uid.as_str()));
        if !self.kept.is_empty() {
            let items: Vec<_> = self.kept.iter().map(item).collect();
            let kept = DataSetSequence::from(items);
            object.put(DataElement::new(tags::REFERENCED_SOP_SEQUENCE, VR::SQ, kept));
        }
        if !self.failed.is_empty() {
            let failed = self.failed.iter().map(|(reference, reason)| {
                let mut item = item(reference);
                let reason = PrimitiveValue::from(*reason);
                item.put(DataElement::new(tags::FAILURE_REASON, VR::US, reason));
                item
            });
            let failed = DataSetSequence::from(failed.collect::<Vec<_>>());
            object.put(DataElement::new(tags::FAILED_SOP_SEQUENCE, VR::SQ, failed));
        }
        let into = TransferSyntaxRegistry.get(transfer_syntax.as_str())?;
        let mut bytes = Vec::new();
        object.write_dataset_with_ts(&mut bytes, into).ok()?;
        Some(bytes)
    }
}

/// The data set of N-ACTION (PS3.4 J.3.2.1.1); `None` for what is none.
fn parse(data_set: Vec<u8>, transfer_syntax: &TransferSyntaxUid) -> Option<(TransactionUid, Vec<Reference>)> {
    let limits = InstanceLimits { max_bytes: LONGEST_QUESTION, ..InstanceLimits::default() };
    let instance = parse_data_set(data_set, transfer_syntax.clone(), limits).ok()?;
    let object = instance.data_set().ok()?;
    let top = Attributes::new(&object, "question about storage commitment");
    let of = |item: &Attributes<'_>| {
        let class = item.optional_text(tags::REFERENCED_SOP_CLASS_UID)?.parse().ok()?;
        let instance = item.optional_text(tags::REFERENCED_SOP_INSTANCE_UID)?.parse().ok()?;
        Some(Reference { class, instance })
    };
    let references = top.items(tags::REFERENCED_SOP_SEQUENCE).ok()?.iter().map(of).collect::<Option<_>>()?;
    Some((top.optional_text(tags::TRANSACTION_UID)?.parse().ok()?, references))
}

/// Every part of the name is ours or a checked UID.
fn path_of(folder: &Path, transaction_uid: &TransactionUid) -> PathBuf {
    folder.join(format!("{transaction_uid}.json"))
}

fn read(folder: &Path, transaction_uid: &TransactionUid) -> Result<Pledge, PledgeError> {
    let path = path_of(folder, transaction_uid);
    let foreign = |source| PledgeError::Foreign { path: path.clone(), source };
    let file: InFile =
        serde_json::from_slice(&fs::read(&path).map_err(foreign)?).map_err(|error| foreign(error.into()))?;
    let reference = |(class, instance): &(String, String)| {
        Some(Reference { class: class.parse().ok()?, instance: instance.parse().ok()? })
    };
    let references: Option<Vec<_>> = file.references.iter().map(reference).collect();
    let (Ok(calling_ae_title), Some(references)) = (file.calling_ae_title.parse(), references) else {
        return Err(foreign(io::ErrorKind::InvalidData.into()));
    };
    let asked_ms = file.asked_ms;
    Ok(Pledge { transaction_uid: transaction_uid.clone(), calling_ae_title, asked_ms, references })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ingest::commitment::Report;
    use crate::pipeline::ingest::spool::{Incoming, SpoolLimits};

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const IMPLICIT: &str = "1.2.840.10008.1.2";

    fn syntax() -> TransferSyntaxUid {
        IMPLICIT.parse().unwrap()
    }

    fn uid(tag: dicom_core::Tag, value: &str) -> DataElement<InMemDicomObject> {
        DataElement::new(tag, VR::UI, PrimitiveValue::from(value))
    }

    fn written(object: &InMemDicomObject) -> Vec<u8> {
        let mut bytes = Vec::new();
        object.write_dataset_with_ts(&mut bytes, TransferSyntaxRegistry.get(IMPLICIT).unwrap()).unwrap();
        bytes
    }

    fn question(transaction: &str, references: &[(&str, &str)]) -> Vec<u8> {
        let items = references.iter().map(|(class, instance)| {
            InMemDicomObject::from_element_iter([
                uid(tags::REFERENCED_SOP_CLASS_UID, class),
                uid(tags::REFERENCED_SOP_INSTANCE_UID, instance),
            ])
        });
        let items = DataSetSequence::from(items.collect::<Vec<_>>());
        written(&InMemDicomObject::from_element_iter([
            uid(tags::TRANSACTION_UID, transaction),
            DataElement::new(tags::REFERENCED_SOP_SEQUENCE, VR::SQ, items),
        ]))
    }

    struct Here {
        folder: tempfile::TempDir,
        pledges: Pledges,
        hinted: mpsc::Receiver<SeriesHint>,
    }

    /// A data folder with these instances, each in a series.
    fn here(instances: &[(&str, &str)]) -> Here {
        let folder = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { min_free_mb: 0, new_series_free_mb: 0, max_inflated_bytes: 1 << 20 };
        let (spool, _) = Spool::open(folder.path(), limits).unwrap();
        for (series, instance) in instances {
            let data_set = written(&InMemDicomObject::from_element_iter([
                uid(tags::SOP_CLASS_UID, CT),
                uid(tags::SOP_INSTANCE_UID, instance),
                uid(tags::STUDY_INSTANCE_UID, "1.2.777"),
                uid(tags::SERIES_INSTANCE_UID, series),
            ]));
            let incoming = Incoming {
                sop_class_uid: &CT.parse().unwrap(),
                sop_instance_uid: &instance.parse().unwrap(),
                transfer_syntax_uid: &syntax(),
                calling_ae_title: &"CT1".parse().unwrap(),
                data_set: &data_set,
            };
            spool.store(&incoming).unwrap();
        }
        let (pledges, hinted) = Pledges::open(folder.path(), Arc::new(spool)).unwrap();
        Here { folder, pledges, hinted }
    }

    impl Here {
        fn ask(&self, transaction: &str, references: &[(&str, &str)]) -> Result<(), ActionStatus> {
            let bytes = question(transaction, references);
            self.pledges.take(&"CT1".parse().unwrap(), bytes, &syntax()).map(drop)
        }

        fn report(&self, transaction: &str) -> (u16, Report) {
            let (_, report) = self.pledges.report(&transaction.parse().unwrap()).unwrap();
            let bytes = report.encode(&syntax()).unwrap();
            (report.event_type(), Report::parse(&bytes, &syntax()).unwrap())
        }
    }

    #[test]
    fn a_report_says_of_each_instance_whether_it_is_here_and_why_not() {
        let here = here(&[("1.7", "1.7.1"), ("1.7", "1.7.2")]);
        here.ask("1.2.1", &[(CT, "1.7.1"), (CT, "1.7.2")]).unwrap();
        let (event_type, all) = here.report("1.2.1");
        assert_eq!((event_type, all.kept.len(), all.failed.len()), (1, 2, 0));
        here.ask("1.2.2", &[(CT, "1.7.1"), (CT, "1.7.9"), ("1.2.840.10008.5.1.4.1.1.4", "1.7.2")]).unwrap();
        let (event_type, some) = here.report("1.2.2");
        assert_eq!((event_type, some.kept), (2, vec!["1.7.1".to_owned()]));
        let failed = [("1.7.9".to_owned(), Some(0x0112)), ("1.7.2".to_owned(), Some(0x0119))];
        assert_eq!(some.failed, failed);
        // Removed after the question, before the report: it says what is, not what was.
        std::fs::remove_file(here.folder.path().join("instances/1.7/1.7.1.dcm")).unwrap();
        assert_eq!(here.report("1.2.1").1.failed, [("1.7.1".to_owned(), Some(0x0112))]);
    }

    #[test]
    fn a_question_outlives_its_process_until_its_report_is_taken() {
        let here = here(&[("1.7", "1.7.1")]);
        here.ask("1.2.1", &[(CT, "1.7.1")]).unwrap();
        here.ask("1.2.2", &[(CT, "1.7.1")]).unwrap();
        std::fs::write(here.folder.path().join("commitments/1.2.3.part"), "{").unwrap();
        std::fs::write(here.folder.path().join("commitments/1.2.4.json"), "{").unwrap();
        here.pledges.forget(&"1.2.2".parse().unwrap());
        let (later, _) = Pledges::open(here.folder.path(), Arc::clone(&here.pledges.spool)).unwrap();
        let waiting: Vec<_> = later.all().into_iter().map(|(uid, w)| (uid, w.calling_ae_title)).collect();
        assert_eq!(waiting, [("1.2.1".parse().unwrap(), "CT1".parse().unwrap())]);
        let left: Vec<_> = std::fs::read_dir(here.folder.path().join("commitments")).unwrap().collect();
        assert_eq!(left.len(), 2, "what nobody was told success for goes, what is damaged stays: {left:?}");
    }

    #[test]
    fn the_same_question_again_is_one_and_another_under_its_uid_is_refused() {
        let here = here(&[("1.7", "1.7.1")]);
        here.ask("1.2.1", &[(CT, "1.7.1")]).unwrap();
        here.ask("1.2.1", &[(CT, "1.7.1")]).unwrap();
        assert_eq!(here.pledges.all().len(), 1);
        let other = here.ask("1.2.1", &[(CT, "1.7.2")]);
        assert_eq!(other, Err(ActionStatus::DuplicateTransaction));
    }

    #[test]
    fn what_is_no_question_or_too_long_a_one_is_refused() {
        let here = here(&[]);
        let take = |bytes: Vec<u8>| here.pledges.take(&"CT1".parse().unwrap(), bytes, &syntax()).unwrap_err();
        assert_eq!(take(vec![0xFF; 40]), ActionStatus::InvalidArgument);
        assert_eq!(take(question("1.2.1", &[])), ActionStatus::InvalidArgument);
        assert_eq!(take(question("../../x", &[(CT, "1.7.1")])), ActionStatus::InvalidArgument);
        assert_eq!(take(question("1.2.1", &[(CT, "../x")])), ActionStatus::InvalidArgument);
        assert_eq!(take(vec![0; LONGEST_QUESTION + 1]), ActionStatus::ResourceLimitation);
        let many: Vec<(&str, &str)> = vec![(CT, "1.7.1"); MOST_REFERENCES + 1];
        assert_eq!(take(question("1.2.1", &many)), ActionStatus::ResourceLimitation);
        assert!(here.pledges.all().is_empty());
        let wait = |title: &str, n: usize| {
            let calling_ae_title = title.parse().unwrap();
            let waiting = Waiting { calling_ae_title, asked_ms: 0, since: Instant::now() };
            here.pledges.waiting().insert(format!("1.3.{n}").parse().unwrap(), waiting);
        };
        (0..MOST_WAITING_OF_ONE).for_each(|n| wait("CT1", n));
        assert_eq!(here.ask("1.2.1", &[(CT, "1.7.1")]), Err(ActionStatus::ResourceLimitation));
        (0..MOST_WAITING).for_each(|n| wait("CT2", n));
        assert_eq!(here.ask("1.2.1", &[(CT, "1.7.1")]), Err(ActionStatus::ResourceLimitation));
    }

    #[test]
    fn a_question_about_a_whole_series_says_that_it_is_whole_and_others_say_nothing() {
        let instances: Vec<String> = (0..5).map(|n| format!("1.7.{n}")).collect();
        let stored: Vec<(&str, &str)> = instances.iter().map(|uid| ("1.7", uid.as_str())).collect();
        let mut here = here(&stored);
        let references: Vec<(&str, &str)> = instances.iter().map(|uid| (CT, uid.as_str())).collect();
        here.ask("1.2.1", &references[..3]).unwrap();
        here.ask("1.2.2", &[&references[..], &[(CT, "1.9.9")]].concat()).unwrap();
        assert!(here.hinted.try_recv().is_err(), "too few, or one that is not here");
        here.ask("1.2.3", &references).unwrap();
        let hint = SeriesHint { series_instance_uid: "1.7".parse().unwrap(), n_instances: 5 };
        assert_eq!(here.hinted.try_recv().unwrap(), hint);
    }
}
