//! The summary for people.

use comfy_table::{CellAlignment, Table, presets};

use crate::summary::{Figures, Summary, TorchSummary};

/// The tables as text.
pub(crate) fn table(summary: &Summary) -> String {
    let Summary { preset, batch, steps, warmup, turns, parameters, gflop_per_step, .. } = summary;
    let precision = &summary.precision;
    let others = summary.others_share.map_or(String::new(), |share| {
        format!("; others used up to {:.0} % of the processors", 100.0 * share)
    });
    let mut text = format!(
        "{preset}, batch {batch}, {precision}, {parameters} parameters, {gflop_per_step:.1} GFLOP a step; {}; {turns} \
         turns of {steps} steps after {warmup}{others}\n\n",
        summary.device
    );
    text.push_str(&format!("{}\n\n", rows(summary)));
    let mut operations = grid(&["operation", "ms a step", "%"]);
    let mut sorted: Vec<(&String, &f64)> = summary.operations.iter().collect();
    sorted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    for (name, ms) in sorted {
        let part = 100.0 * ms / summary.figures.step_ms;
        operations.add_row([name.clone(), format!("{ms:.1}"), format!("{part:.1}")]);
    }
    text.push_str(&operations.to_string());
    if let Some(torch) = &summary.torch {
        text.push_str(&format!("\n\n{}", ratios(torch)));
    }
    text
}

/// A row per measured program and number of threads.
fn rows(summary: &Summary) -> Table {
    let mut table = grid(&["", "threads", "step ms", "min ms", "GFLOP/s", "peak MiB"]);
    let mut row = |name: &str, threads: usize, figures: Figures| {
        let Figures { step_ms, min_ms, peak_rss_bytes } = figures;
        let rate = format!("{:.1}", summary.gflop_per_step / step_ms * 1e3);
        let memory = peak_rss_bytes.map_or(String::new(), |bytes| (bytes >> 20).to_string());
        let times = [format!("{step_ms:.1}"), format!("{min_ms:.1}")];
        let [step, min] = times;
        table.add_row([name.to_owned(), threads.to_string(), step, min, rate, memory]);
    };
    let all = summary.threads;
    row("fedpaint", all, summary.figures);
    if let Some(torch) = &summary.torch {
        row("PyTorch eager", all, torch.eager);
        row("PyTorch channels-last", all, torch.channels_last);
        if let Some(compile) = torch.compile {
            row("PyTorch compile", all, compile);
        }
    }
    if let Some(ours) = summary.one_thread {
        row("fedpaint", 1, ours);
    }
    if let Some(one) = summary.torch.as_ref().and_then(|torch| torch.one_thread.as_ref()) {
        row("PyTorch eager", 1, one.eager);
        row("PyTorch channels-last", 1, one.channels_last);
    }
    let rates = summary.torch.iter().flat_map(|torch| {
        let one = torch.one_thread.as_ref().map(|one| (1, one.sgemm_gflops));
        std::iter::once((all, torch.sgemm_gflops)).chain(one)
    });
    for (threads, rate) in rates {
        let (threads, rate) = (threads.to_string(), format!("{rate:.1}"));
        table.add_row(["sgemm, the ceiling", &threads, "", "", &rate, ""]);
    }
    table
}

fn ratios(torch: &TorchSummary) -> String {
    let mut table = grid(&["ratio, ours to theirs", ""]);
    for (name, ratio) in &torch.ratios {
        table.add_row([name.replace('_', " "), format!("{ratio:.2}")]);
    }
    let apart = torch.agreement;
    let why = torch.compile_why_not.as_ref();
    let why = why.map_or(String::new(), |why| format!("\nno torch.compile: {why}"));
    format!(
        "{table}\n\nthe same work: of the first step the loss is {:.0e} and the gradient's norm {:.0e} \
         apart, of the last the loss {:.0e}{why}",
        apart.first_loss, apart.first_gradient_norm, apart.last_loss
    )
}

fn grid(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
