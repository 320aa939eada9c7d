//! Events as a Parquet table, a row each; zstd, row groups of [`GROUP_ROWS`].
//!
//! A column is a name, a type and the value that an event has for it: adding one is adding a line.
//! Labels are a map, whose keys and values are two columns in step.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use store::{Event, Outcome, StageTimes, Time};

use super::{Sink, class_name, some};

/// Rows that are kept until they are written together.
const GROUP_ROWS: usize = 1 << 16;

/// The values of one column in a row group. Levels say which rows have one.
enum Column {
    Text(
        &'static str,
        fn(&Event) -> Option<String>,
        Levels<ByteArray>,
    ),
    Time(&'static str, fn(&Event) -> Option<Time>, Levels<i64>),
    Number(&'static str, fn(&Event) -> Option<u32>, Levels<i32>),
    /// Microseconds of the stage with this index.
    Stage(usize, Levels<i32>),
    Tags {
        keys: Levels<ByteArray>,
        values: Levels<ByteArray>,
        repetition: Vec<i16>,
    },
}

/// Values, and for each place the level up to which it is defined.
struct Levels<T> {
    values: Vec<T>,
    definition: Vec<i16>,
}

impl<T> Levels<T> {
    fn new() -> Self {
        Self {
            values: Vec::new(),
            definition: Vec::new(),
        }
    }

    fn push(&mut self, value: Option<T>) {
        self.definition.push(value.is_some().into());
        self.values.extend(value);
    }

    fn clear(&mut self) {
        self.values.clear();
        self.definition.clear();
    }
}

fn outcome(event: &Event) -> Option<&Outcome> {
    event.outcome.as_deref()
}

fn columns() -> Vec<Column> {
    let text = |name, of| Column::Text(name, of, Levels::new());
    let time = |name, of| Column::Time(name, of, Levels::new());
    let number = |name, of| Column::Number(name, of, Levels::new());
    let mut columns = vec![
        time("at", |it| Some(it.at)),
        text("email_id", |it| Some(it.message.to_string())),
        text("recipient", |it| Some(it.address.to_string())),
        number("recipient_index", |it| Some(it.recipient)),
        text("tenant", |it| Some(it.tenant.to_string())),
        text("status", |it| Some(it.status.name().to_owned())),
        time("due_at", |it| it.due_at),
        text("from", |it| {
            some(&it.heading.as_ref()?.from).map(str::to_owned)
        }),
        text("subject", |it| {
            some(&it.heading.as_ref()?.subject).map(str::to_owned)
        }),
        Column::Tags {
            keys: Levels::new(),
            values: Levels::new(),
            repetition: Vec::new(),
        },
        number("attempt", |it| Some(outcome(it)?.attempt.into())),
        text("site", |it| some(&outcome(it)?.site).map(str::to_owned)),
        text("host", |it| some(&outcome(it)?.host).map(str::to_owned)),
        text("source", |it| some(&outcome(it)?.source).map(str::to_owned)),
        text("stage", |it| some(&outcome(it)?.stage).map(str::to_owned)),
        text("class", |it| {
            class_name(outcome(it)?.class).map(str::to_owned)
        }),
        number("code", |it| {
            Some(outcome(it)?.said.code.into()).filter(|code| *code > 0)
        }),
        text("enhanced", |it| {
            outcome(it)?.said.enhanced.map(|status| status.to_string())
        }),
        text("text", |it| Some(outcome(it)?.said.text.to_string())),
    ];
    columns.extend((0..StageTimes::NAMES.len()).map(|stage| Column::Stage(stage, Levels::new())));
    columns
}

impl Column {
    /// Its line in the schema.
    fn schema(&self) -> String {
        match self {
            Self::Text(name, ..) => format!("optional binary {name} (STRING);"),
            Self::Time(name, ..) => format!("optional int64 {name} (TIMESTAMP(MICROS,true));"),
            Self::Number(name, ..) => format!("optional int32 {name} (INTEGER(32,false));"),
            Self::Stage(stage, _) => {
                let name = StageTimes::NAMES[*stage];
                format!("optional int32 {name}_us (INTEGER(32,false));")
            }
            Self::Tags { .. } => "optional group tags (MAP) { repeated group key_value { \
                                  required binary key (STRING); \
                                  optional binary value (STRING); } }"
                .to_owned(),
        }
    }

    fn push(&mut self, event: &Event) {
        match self {
            Self::Text(_, of, levels) => levels.push(of(event).map(|it| it.into_bytes().into())),
            Self::Time(_, of, levels) => levels.push(of(event).map(micros)),
            Self::Number(_, of, levels) => levels.push(of(event).map(u32::cast_signed)),
            Self::Stage(stage, levels) => {
                let us = outcome(event).map(|it| it.times.0[*stage]);
                levels.push(us.filter(|us| *us > 0).map(u32::cast_signed));
            }
            Self::Tags {
                keys,
                values,
                repetition,
            } => {
                push_tags(event, keys, values);
                // The first label of a row begins its list, the others go on with it.
                let count = event.tags.len().max(1);
                repetition.extend((0..count).map(|index| i16::from(index > 0)));
            }
        }
    }

    /// Columns of the file that it makes.
    fn width(&self) -> usize {
        if matches!(self, Self::Tags { .. }) {
            2
        } else {
            1
        }
    }

    /// Writes the part with this index of what it has.
    fn write(
        &self,
        part: usize,
        writer: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), ParquetError> {
        match self {
            Self::Text(_, _, it) => {
                writer
                    .typed::<ByteArrayType>()
                    .write_batch(&it.values, Some(&it.definition), None)
            }
            Self::Time(_, _, it) => {
                writer
                    .typed::<Int64Type>()
                    .write_batch(&it.values, Some(&it.definition), None)
            }
            Self::Number(_, _, it) | Self::Stage(_, it) => {
                writer
                    .typed::<Int32Type>()
                    .write_batch(&it.values, Some(&it.definition), None)
            }
            Self::Tags {
                keys,
                values,
                repetition,
            } => {
                let it = [keys, values][part];
                writer.typed::<ByteArrayType>().write_batch(
                    &it.values,
                    Some(&it.definition),
                    Some(repetition),
                )
            }
        }
        .map(|_| ())
    }

    fn clear(&mut self) {
        match self {
            Self::Text(_, _, levels) => levels.clear(),
            Self::Time(_, _, levels) => levels.clear(),
            Self::Number(_, _, levels) | Self::Stage(_, levels) => levels.clear(),
            Self::Tags {
                keys,
                values,
                repetition,
            } => {
                keys.clear();
                values.clear();
                repetition.clear();
            }
        }
    }
}

/// A map without entries is defined to level 1, an entry to 2, its value to 3.
fn push_tags(event: &Event, keys: &mut Levels<ByteArray>, values: &mut Levels<ByteArray>) {
    if event.tags.is_empty() {
        keys.definition.push(1);
        values.definition.push(1);
    }
    for (name, value) in event.tags.iter() {
        keys.definition.push(2);
        keys.values.push(name.as_bytes().to_vec().into());
        values.definition.push(3);
        values.values.push(value.as_bytes().to_vec().into());
    }
}

fn micros(time: Time) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Writes events as rows.
pub(super) struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
}

impl<W: Write + Send> Table<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let columns = columns();
        let lines: String = columns.iter().map(Column::schema).collect();
        let schema = format!("message mailrail_events {{ {lines} }}");
        let schema = parse_message_type(&schema).expect("a schema of ours");
        let level = ZstdLevel::try_new(3).expect("a level there is");
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level));
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build()));
        Ok(Self {
            writer: writer.map_err(io::Error::other)?,
            columns,
            rows: 0,
        })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            for part in 0..column.width() {
                let mut writer = group.next_column()?.expect("a column of the schema");
                column.write(part, &mut writer)?;
                writer.close()?;
            }
            column.clear();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl<W: Write + Send> Sink for Table<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        for column in &mut self.columns {
            column.push(event);
        }
        self.rows += 1;
        if self.rows == GROUP_ROWS {
            self.write_group().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if self.rows > 0 {
            self.write_group().map_err(io::Error::other)?;
        }
        self.writer.close().map_err(io::Error::other)?;
        Ok(())
    }
}
