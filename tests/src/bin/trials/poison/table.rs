//! What came out, for people.

use comfy_table::{CellAlignment, Table, presets};

use super::{Arm, Defence, MEAN};

/// The losses as parts of the clean one by the mean, a row per attack and a column per defence; beside each,
/// how many updates of bad sites of all that were sent were told to be unlike the others.
pub(super) fn table(start: f64, arms: &[Arm]) -> String {
    let mut defences: Vec<Defence> = Vec::new();
    for arm in arms {
        if !defences.contains(&arm.defence) {
            defences.push(arm.defence);
        }
    }
    let attacks = arms.iter().filter(|arm| arm.defence == MEAN).map(|arm| arm.attack);
    let clean = arms.iter().find(|arm| arm.defence == MEAN && arm.attack.is_none());
    let clean = clean.map_or(f64::NAN, |arm| arm.ended.loss);
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["attack"].into_iter().chain(defences.iter().map(|defence| defence.name)));
    for attack in attacks {
        let cell = |defence: &Defence| {
            let of = arms.iter().find(|arm| arm.defence == *defence && arm.attack == attack);
            of.map_or(String::new(), |arm| cell(arm, clean))
        };
        let name = attack.map_or("none", super::Attack::name).to_owned();
        table.add_row([name].into_iter().chain(defences.iter().map(cell)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "Validation loss as a part of that by the mean without an attack, which is {clean:.5} after \
         {start:.5} in the beginning (bad updates told):\n{table}"
    )
}

fn cell(arm: &Arm, clean: f64) -> String {
    let ended = &arm.ended;
    let loss = match ended.loss / clean {
        times if times.is_finite() && times < 1e3 => format!("{times:.3}"),
        times if times.is_finite() => format!("{times:.0e}"),
        _ => "diverged".to_owned(),
    };
    match ended.bad {
        0 => loss,
        bad => format!("{loss} ({}/{bad})", ended.bad_told),
    }
}
