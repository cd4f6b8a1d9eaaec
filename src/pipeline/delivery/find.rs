//! C-FIND: how many instances a series has at an archive (PS3.4 C.4.1, Study Root).

use std::io;
use std::time::Duration;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR, dicom_value};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use dicom_ul::Pdu;
use dicom_ul::association::client::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::scu::ScuTimeouts;
use crate::pipeline::ingest::data_set::{self, DataSetError, Keep};
use crate::vocabulary::dicom::dimse::{InvalidCommand, Response};
use crate::vocabulary::dicom::{AeTitle, Peer, SeriesInstanceUid, StudyInstanceUid};

/// Why an archive does not say how many instances a series has.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No association, or it broke.
    #[error("{peer} cannot be asked (C-FIND): does it know us, and does it answer Study Root queries?")]
    Association {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: Box<dicom_ul::association::Error>,
    },
    /// It took too long.
    #[error("{peer} did not answer a C-FIND in time")]
    Late {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An answer that is none.
    #[error("the answer of {peer} to a C-FIND cannot be read")]
    Answer {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: InvalidCommand,
    },
    /// A match that cannot be read.
    #[error("a match that {peer} found cannot be read")]
    Match {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: DataSetError,
    },
    /// More than any series has.
    #[error("{peer} answers a C-FIND without end")]
    Endless {
        /// Who.
        peer: Peer,
    },
    /// A status other than success.
    #[error("{peer} refuses a C-FIND with status {status:04X}H")]
    Refused {
        /// Who.
        peer: Peer,
        /// Status (0000,0900).
        status: u16,
    },
}

/// More matches than the longest series has instances.
const MOST_MATCHES: u32 = 20_000;

/// More than any match needs.
const MOST_BYTES: usize = 65_536;

/// Pending, and pending with keys that were not matched (PS3.4 C.4.1.1.4).
const PENDING: [u16; 2] = [0xFF00, 0xFF01];

/// How many instances a series has at an archive: what it says by Number of Series Related Instances, else as many as it
/// lists. `None` where it does not know the series.
///
/// # Errors
/// [`FindError`].
pub async fn count_instances(
    peer: &Peer,
    calling: &AeTitle,
    (study, series): (&StudyInstanceUid, &SeriesInstanceUid),
    timeouts: ScuTimeouts,
) -> Result<Option<u32>, FindError> {
    let limit = timeouts.connect.saturating_add(timeouts.answer);
    match timeout(limit, ask(peer, calling, (study, series), timeouts.connect)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(FindError::Late { peer: peer.clone(), source: io::ErrorKind::TimedOut.into() }),
    }
}

async fn ask(
    peer: &Peer,
    calling: &AeTitle,
    (study, series): (&StudyInstanceUid, &SeriesInstanceUid),
    connect: Duration,
) -> Result<Option<u32>, FindError> {
    let broken = |source| FindError::Association { peer: peer.clone(), source: Box::new(source) };
    let host = peer.host.trim_start_matches('[').trim_end_matches(']');
    let association = ClientAssociationOptions::new()
        .calling_ae_title(calling.as_str())
        .called_ae_title(peer.ae_title.as_str())
        .connection_timeout(connect)
        .with_presentation_context(FIND, vec![uids::IMPLICIT_VR_LITTLE_ENDIAN])
        .establish_async((host, peer.port))
        .await
        .map_err(broken)?;
    let mut finder = Finder { peer, association, message_id: 0 };
    let mut n_instances = None;
    let keys = [(tags::STUDY_INSTANCE_UID, study.as_str()), (tags::SERIES_INSTANCE_UID, series.as_str())];
    let wanted = [(tags::NUMBER_OF_SERIES_RELATED_INSTANCES, VR::IS)];
    let n_series = finder
        .find("SERIES", &keys, &wanted, |found| {
            n_instances = found.text(data_set::NUMBER_OF_SERIES_RELATED_INSTANCES).trim().parse().ok();
        })
        .await?;
    if n_series > 0 && n_instances.is_none() {
        n_instances = Some(finder.find("IMAGE", &keys, &[(tags::SOP_INSTANCE_UID, VR::UI)], |_| {}).await?);
    }
    if let Err(error) = finder.association.release().await {
        tracing::debug!(%peer, %error, "no answer to the release");
    }
    Ok(n_instances)
}

const FIND: &str = uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_FIND;

struct Finder<'a> {
    peer: &'a Peer,
    association: AsyncClientAssociation<TcpStream>,
    message_id: u16,
}

impl Finder<'_> {
    /// Asks once and gives the number of matches.
    async fn find(
        &mut self,
        level: &str,
        keys: &[(Tag, &str)],
        wanted: &[(Tag, VR)],
        mut each: impl FnMut(&data_set::Outline),
    ) -> Result<u32, FindError> {
        self.message_id += 1;
        let context = self.association.presentation_contexts().first().map_or(1, |context| context.id);
        let level = DataElement::new(tags::QUERY_RETRIEVE_LEVEL, VR::CS, PrimitiveValue::from(level));
        let keys = keys.iter().map(|(tag, uid)| DataElement::new(*tag, VR::UI, PrimitiveValue::from(*uid)));
        let wanted = wanted.iter().map(|(tag, vr)| DataElement::new(*tag, *vr, PrimitiveValue::Empty));
        let identifier = InMemDicomObject::from_element_iter([level].into_iter().chain(keys).chain(wanted));
        let command = InMemDicomObject::command_from_element_iter([
            DataElement::new(tags::AFFECTED_SOP_CLASS_UID, VR::UI, PrimitiveValue::from(FIND)),
            DataElement::new(tags::COMMAND_FIELD, VR::US, dicom_value!(U16, [0x0020])),
            DataElement::new(tags::MESSAGE_ID, VR::US, dicom_value!(U16, [self.message_id])),
            DataElement::new(tags::PRIORITY, VR::US, dicom_value!(U16, [0x0000])),
            DataElement::new(tags::COMMAND_DATA_SET_TYPE, VR::US, dicom_value!(U16, [0x0001])),
        ]);
        for (value_type, object) in [(PDataValueType::Command, command), (PDataValueType::Data, identifier)] {
            let mut data = Vec::new();
            object
                .write_dataset_with_ts(&mut data, &IMPLICIT_VR_LITTLE_ENDIAN.erased())
                .expect("a few short elements are written to memory");
            let value = PDataValue { presentation_context_id: context, value_type, is_last: true, data };
            let sent = self.association.send(&Pdu::PData { data: vec![value] }).await;
            sent.map_err(|source| self.broken(source))?;
        }
        self.answers(&mut each).await
    }

    async fn answers(&mut self, each: &mut impl FnMut(&data_set::Outline)) -> Result<u32, FindError> {
        let (mut command, mut identifier, mut n_matches) = (Vec::new(), Vec::new(), 0);
        loop {
            let pdu = self.association.receive().await.map_err(|source| self.broken(source))?;
            let Pdu::PData { data } = pdu else {
                return Err(FindError::Refused { peer: self.peer.clone(), status: 0 });
            };
            for value in data {
                let part = match value.value_type {
                    PDataValueType::Command => &mut command,
                    PDataValueType::Data => &mut identifier,
                };
                part.extend_from_slice(&value.data);
                if part.len() > MOST_BYTES || n_matches > MOST_MATCHES {
                    return Err(FindError::Endless { peer: self.peer.clone() });
                }
                if !value.is_last {
                    continue;
                }
                if value.value_type == PDataValueType::Data {
                    // Looked at without recursion: what an archive sends is not to be trusted.
                    let found =
                        data_set::outline(&identifier, uids::IMPLICIT_VR_LITTLE_ENDIAN, 0, Keep::Values)
                            .map_err(|source| FindError::Match { peer: self.peer.clone(), source })?;
                    each(&found);
                    identifier.clear();
                    continue;
                }
                let response = Response::parse(&command)
                    .map_err(|source| FindError::Answer { peer: self.peer.clone(), source })?;
                command.clear();
                match response.status {
                    0 => return Ok(n_matches),
                    status if PENDING.contains(&status) => n_matches += 1,
                    status => return Err(FindError::Refused { peer: self.peer.clone(), status }),
                }
            }
        }
    }

    fn broken(&self, source: dicom_ul::association::Error) -> FindError {
        FindError::Association { peer: self.peer.clone(), source: Box::new(source) }
    }
}
