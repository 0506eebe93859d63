//! What each kind of row looks like in a table.

mod core;
mod customers;

#[cfg(test)]
mod tests {
    use crate::show::Row;

    /// A row as the API gives it fills these columns.
    pub(super) fn check<T: Row>(value: &serde_json::Value, cells: &[&str]) {
        let row: T = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(row.cells(), cells);
        assert_eq!(T::HEADER.len(), cells.len());
        // What programs get has the names of the API.
        let again = serde_json::to_value(&row).unwrap();
        value.as_object().unwrap().iter().for_each(|(name, v)| assert_eq!(&again[name], v, "{name}"));
    }
}
