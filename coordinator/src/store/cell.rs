//! A column's value, whatever the table: a text, a number, or none of either.

use sqlx::any::{AnyRow, AnyTypeInfoKind};
use sqlx::query::Query;
use sqlx::{Any, Column, Row, ValueRef};

use super::Error;

/// A statement with the values that are bound to it so far.
pub(super) type Bound = Query<'static, Any, <Any as sqlx::Database>::Arguments>;

/// A column's value: there is nothing else in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(Option<String>),
    Number(Option<i64>),
}

impl Cell {
    pub(super) fn bind(self, statement: Bound) -> Bound {
        match self {
            Cell::Text(text) => statement.bind(text),
            Cell::Number(number) => statement.bind(number),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(Some(text.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(Some(text))
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Cell {
        Cell::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Cell {
        Cell::Number(Some(number))
    }
}

impl From<Option<i64>> for Cell {
    fn from(number: Option<i64>) -> Cell {
        Cell::Number(number)
    }
}

/// What is in a row, with the names of the columns; what is NULL is left out.
pub(super) fn cells(row: &AnyRow) -> Result<Vec<(String, Cell)>, Error> {
    let mut cells = Vec::new();
    for column in row.columns() {
        let name = column.name();
        let value = row.try_get_raw(name)?;
        if value.is_null() {
            continue;
        }
        let cell = match value.type_info().kind() == AnyTypeInfoKind::Text {
            true => Cell::from(row.try_get::<String, _>(name)?),
            false => Cell::from(row.try_get::<i64, _>(name)?),
        };
        cells.push((name.to_owned(), cell));
    }
    Ok(cells)
}
