//! The page that `oarlock dataset show` writes.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ndarray::Zip;

use crate::learning::dataset::{OrganSet, StoredCase};
use crate::picture::{Outline, sheet};
use crate::pipeline::volume::HuVolume;
use crate::settings::StructureTemplate;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::RegionMask;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes `index.html` and a picture of each case; gives the page. `done` is called after each case.
pub(super) fn write_page(
    cases: &[StoredCase],
    notices: &[String],
    template: &StructureTemplate,
    folder: &Path,
    mut done: impl FnMut(),
) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("{} cannot be made ({error})", folder.display()))?;
    let mut text = HEAD.to_owned();
    write!(text, "<h1>Cases: {}</h1>", cases.len())?;
    for notice in notices {
        write!(text, "<p class=\"notice\">{}</p>", escaped(notice))?;
    }
    for stored in cases {
        let picture = format!("{}.png", stored.name());
        put(&folder.join(&picture), &picture_of(stored, template)?)?;
        write_case(&mut text, stored, &picture)?;
        done();
    }
    text.push_str("</body></html>\n");
    let page = folder.join("index.html");
    put(&page, text.as_bytes())?;
    Ok(page)
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Data set</title><style>\
    body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1500px;padding:0 1rem;color:#1b1b1b}\
    section{border-top:1px solid #ccc;padding:1rem 0;display:flex;gap:1.5rem;flex-wrap:wrap;align-items:flex-start}\
    section>div{flex:1 1 26rem}section>a{flex:2 1 40rem}img{width:100%;background:#000}\
    table{border-collapse:collapse}td,th{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top}\
    td:first-child{white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.look{background:#fff3d6}tr.out{background:#fddcd8}\
    .notice{color:#555}h2{margin:.2rem 0}\
    </style></head><body>";

fn write_case(text: &mut String, stored: &StoredCase, picture: &str) -> std::fmt::Result {
    let case = stored.entry();
    let [z, y, x] = case.shape;
    let [dz, dy, dx] = case.spacing_mm;
    let part = case.part.map(|part| part.to_string()).unwrap_or_default();
    write!(text, "<section id=\"{0}\"><div><h2>{0}</h2>", case.id)?;
    write!(
        text,
        "<p>patient {}, {part}, {z} x {y} x {x} voxels of {dz:.3} x {dy:.3} x {dx:.3} mm</p>",
        escaped(&case.patient)
    )?;
    text.push_str("<table><tr><th>organ</th><th class=\"n\">cm3</th><th>drawn as</th><th>look at</th></tr>");
    for organ in Organ::ALL {
        let Some(found) = case.organs.get(&organ.key()) else { continue };
        let class = match (found.set_aside, found.doubts.is_empty()) {
            (true, _) => "out",
            (false, false) => "look",
            (false, true) => "",
        };
        let aside = if found.set_aside { " (left out of training)" } else { "" };
        write!(
            text,
            "<tr class=\"{class}\"><td>{}</td><td class=\"n\">{:.2}</td><td>{}</td><td>{}{aside}</td></tr>",
            organ.paper_name(),
            found.cm3,
            escaped(&found.from.join(" + ")),
            escaped(&found.doubts.join("; "))
        )?;
    }
    text.push_str("</table>");
    for note in &case.notes {
        write!(text, "<p class=\"notice\">{}</p>", escaped(note))?;
    }
    write!(
        text,
        "</div><a href=\"{picture}\"><img src=\"{picture}\" alt=\"{}\" loading=\"lazy\"></a></section>",
        case.id
    )
}

/// A sheet with every organ; one that is doubted says so in the legend.
fn picture_of(stored: &StoredCase, template: &StructureTemplate) -> Result<Vec<u8>, Failure> {
    let case = stored.read_as_drawn()?;
    let entry = stored.entry();
    let outlines: Vec<Outline> = case
        .annotated
        .iter()
        .map(|organ| {
            let bit = OrganSet::of(organ).bits();
            let whole = Zip::from(&case.organs).map_collect(|bits| bits & bit != 0);
            let of_template = template.entry(organ);
            let found = entry.organs.get(&organ.key());
            let mark = if found.is_some_and(|found| !found.doubts.is_empty()) { " (?)" } else { "" };
            let cm3 = found.map_or(0.0, |found| found.cm3);
            Outline {
                legend: format!("{} {cm3:.1} cm3{mark}", of_template.roi_name),
                color: of_template.color,
                mask: RegionMask::from_whole(whole.view()),
                truth: None,
            }
        })
        .collect();
    let volume = HuVolume { hu: case.hu, grid: case.grid };
    Ok(sheet(&volume, &outlines, stored.name(), &[])?)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| format!("{} cannot be written ({error})", path.display()).into())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
