//! `plan`: what a store will take before there is one. Opens nothing.

use kvs::{Forecast, Plan};

use crate::exit::{Answer, Failure};
use crate::output::Output;
use crate::people::{number, size};
use crate::whole::facts_for_people;

pub fn plan(plan: Plan, out: &mut Output) -> Result<Answer, Failure> {
    let forecast = plan.forecast()?;
    if out.json {
        object(&forecast, out)?;
    } else if out.is_terminal() {
        for_people(&forecast, out)?;
    } else {
        lines(&forecast, out)?;
    }
    Ok(Answer::Yes)
}

/// Names and numbers, all of them bytes but the segments.
fn numbers(forecast: &Forecast) -> [(&'static str, u64); 10] {
    [
        ("index bytes", forecast.index_bytes),
        ("private bytes", forecast.private_bytes),
        ("opening bytes", forecast.opening_bytes),
        ("segments", forecast.segments),
        ("data bytes", forecast.data_bytes),
        ("hint bytes", forecast.hint_bytes),
        ("reserve bytes", forecast.reserve_bytes),
        ("closed disk bytes", forecast.closed_disk_bytes),
        ("open disk bytes", forecast.open_disk_bytes),
        ("peak disk bytes", forecast.peak_disk_bytes),
    ]
}

fn lines(forecast: &Forecast, out: &mut Output) -> Result<(), Failure> {
    for (name, value) in numbers(forecast) {
        out.line(format_args!("{name:<19} {value}"))?;
    }
    let clean = forecast.open_clean.as_secs_f64();
    out.line(format_args!("open seconds        {clean:.6}"))?;
    let killed = forecast.open_killed.as_secs_f64();
    out.line(format_args!("open killed seconds {killed:.6}"))
}

fn object(forecast: &Forecast, out: &mut Output) -> Result<(), Failure> {
    out.object(|o| {
        for (name, value) in numbers(forecast) {
            o.plain(&name.replace(' ', "_"), value);
        }
        o.plain("open_seconds", forecast.open_clean.as_secs_f64())
            .plain("open_killed_seconds", forecast.open_killed.as_secs_f64());
    })
}

fn for_people(forecast: &Forecast, out: &mut Output) -> Result<(), Failure> {
    let ms = |time: std::time::Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let facts = [
        (
            "memory",
            format!(
                "{}, of which {} are the index; {} while opening",
                size(forecast.private_bytes),
                size(forecast.index_bytes),
                size(forecast.opening_bytes)
            ),
        ),
        (
            "data",
            format!(
                "{} in {} segments, {} of hints",
                size(forecast.data_bytes),
                number(forecast.segments),
                size(forecast.hint_bytes)
            ),
        ),
        (
            "disk",
            format!(
                "{} closed, {} while written, at most {} while overwritten",
                size(forecast.closed_disk_bytes),
                size(forecast.open_disk_bytes),
                size(forecast.peak_disk_bytes)
            ),
        ),
        ("reserve", size(forecast.reserve_bytes)),
        (
            "opening",
            format!(
                "{} after a clean close, {} after a kill",
                ms(forecast.open_clean),
                ms(forecast.open_killed)
            ),
        ),
    ];
    facts_for_people(&facts, out)?;
    out.line("memory and disk within 15 %; times are of one machine, with files in the cache")
}
