//! Operations on files. A granted folder is named by its guest path.

use std::collections::BTreeMap;

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
    filesystem_error_code,
};
use wasip2::io::streams::StreamError;

use crate::{Outcome, number};

pub struct Files {
    held: BTreeMap<String, Descriptor>,
}

impl Default for Files {
    fn default() -> Files {
        let folders = get_directories().into_iter();
        Files { held: folders.map(|(folder, place)| (place, folder)).collect() }
    }
}

impl Files {
    fn get(&self, name: &str) -> Result<&Descriptor, String> {
        self.held.get(name).ok_or_else(|| "not held".to_owned())
    }
}

fn code(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn done<V>(result: Result<V, ErrorCode>) -> Outcome {
    result.map(|_| "ok".to_owned()).map_err(code)
}

fn stream(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => match filesystem_error_code(&error) {
            Some(found) => code(found),
            None => error.to_debug_string(),
        },
    }
}

pub fn act(files: &mut Files, words: &[&str]) -> Option<Outcome> {
    Some(match words {
        ["folders"] => Ok(files.held.keys().cloned().collect::<Vec<_>>().join(" ")),
        ["open", name, base, path, flags @ ..] => open(files, name, base, path, flags),
        ["close", name] => {
            files.held.remove(*name).map(|_| "ok".to_owned()).ok_or("not held".into())
        }
        ["open-many", count, base, path] => open_many(files, count, base, path),
        ["make-many", count, base, path] => make_many(files, count, base, path),
        ["mkdir", base, path] => files.get(base).and_then(|f| done(f.create_directory_at(path))),
        ["rmdir", base, path] => files.get(base).and_then(|f| done(f.remove_directory_at(path))),
        ["unlink", base, path] => files.get(base).and_then(|f| done(f.unlink_file_at(path))),
        ["symlink", base, to, path] => files.get(base).and_then(|f| done(f.symlink_at(to, path))),
        ["readlink", base, path] => files.get(base).and_then(|f| f.readlink_at(path).map_err(code)),
        ["link", base, path, to, new] => files
            .get(to)
            .and_then(|to| done(files.get(base)?.link_at(PathFlags::empty(), path, to, new))),
        ["rename", base, path, to, new] => {
            files.get(to).and_then(|to| done(files.get(base)?.rename_at(path, to, new)))
        }
        ["stat", name] => files.get(name).and_then(|f| stat(f.stat())),
        ["stat-at", base, path] => {
            files.get(base).and_then(|f| stat(f.stat_at(PathFlags::SYMLINK_FOLLOW, path)))
        }
        ["stat-many", count, base, path] => stat_many(files, count, base, path),
        ["times", name] => {
            files.get(name).and_then(|f| done(f.set_times(NewTimestamp::Now, NewTimestamp::Now)))
        }
        ["times-at", base, path] => files.get(base).and_then(|f| {
            done(f.set_times_at(
                PathFlags::SYMLINK_FOLLOW,
                path,
                NewTimestamp::Now,
                NewTimestamp::Now,
            ))
        }),
        ["size", name, size] => files.get(name).and_then(|f| done(f.set_size(number(size)?))),
        ["sync", name] => files.get(name).and_then(|f| done(f.sync())),
        ["read", name, offset, len] => files.get(name).and_then(|f| {
            let (bytes, end) = f.read(number(len)?, number(offset)?).map_err(code)?;
            Ok(format!("{} {}", String::from_utf8_lossy(&bytes), if end { "end" } else { "" })
                .trim()
                .to_owned())
        }),
        ["read-stream", name] => files.get(name).and_then(|f| {
            let found = f.read_via_stream(0).map_err(code)?.blocking_read(1 << 40);
            found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(stream)
        }),
        ["write", name, offset, text] => files.get(name).and_then(|f| {
            f.write(text.as_bytes(), number(offset)?).map(|n| n.to_string()).map_err(code)
        }),
        ["write-stream", name, text] => files.get(name).and_then(|f| {
            let out = f.write_via_stream(0).map_err(code)?;
            out.blocking_write_and_flush(text.as_bytes()).map(|()| "ok".to_owned()).map_err(stream)
        }),
        ["append", name, text] => files.get(name).and_then(|f| {
            let out = f.append_via_stream().map_err(code)?;
            out.blocking_write_and_flush(text.as_bytes()).map(|()| "ok".to_owned()).map_err(stream)
        }),
        ["fill", name, bytes] => files.get(name).and_then(|f| fill(f, number(bytes)?)),
        ["list", name] => files.get(name).and_then(list),
        ["number", base, path] => files.get(base).and_then(|f| {
            let found = f.metadata_hash_at(PathFlags::empty(), path).map_err(code)?;
            Ok(format!("{} {}", found.lower, found.upper))
        }),
        ["same", a, b] => {
            files.get(a).and_then(|a| Ok(a.is_same_object(files.get(b)?).to_string()))
        }
        _ => return None,
    })
}

fn open(files: &mut Files, name: &str, base: &str, path: &str, words: &[&str]) -> Outcome {
    let (mut how, mut flags) = (OpenFlags::empty(), DescriptorFlags::empty());
    for word in words {
        match *word {
            "read" => flags |= DescriptorFlags::READ,
            "write" => flags |= DescriptorFlags::WRITE,
            "mutate" => flags |= DescriptorFlags::MUTATE_DIRECTORY,
            "create" => how |= OpenFlags::CREATE,
            "exclusive" => how |= OpenFlags::EXCLUSIVE,
            "truncate" => how |= OpenFlags::TRUNCATE,
            "folder" => how |= OpenFlags::DIRECTORY,
            word => return Err(format!("(the script) {word:?}")),
        }
    }
    let base = files.get(base)?;
    let opened = base.open_at(PathFlags::SYMLINK_FOLLOW, path, how, flags).map_err(code)?;
    files.held.insert(name.to_owned(), opened);
    Ok("ok".to_owned())
}

/// Opens the same file many times, and returns how often that succeeded.
fn open_many(files: &Files, count: &str, base: &str, path: &str) -> Outcome {
    let base = files.get(base)?;
    let mut held = Vec::new();
    for _ in 0..number(count)? {
        let (how, flags) = (OpenFlags::empty(), DescriptorFlags::READ);
        match base.open_at(PathFlags::empty(), path, how, flags) {
            Ok(file) => held.push(file),
            Err(found) => return Ok(format!("{} then {}", held.len(), code(found))),
        }
    }
    Ok(held.len().to_string())
}

/// Makes many files, one open at a time.
fn make_many(files: &Files, count: &str, base: &str, path: &str) -> Outcome {
    let base = files.get(base)?;
    for at in 0..number(count)? {
        let (how, flags) = (OpenFlags::CREATE | OpenFlags::EXCLUSIVE, DescriptorFlags::WRITE);
        let made = base.open_at(PathFlags::empty(), &format!("{path}{at}"), how, flags);
        if let Err(found) = made {
            return Ok(format!("{at} then {}", code(found)));
        }
    }
    Ok(count.to_owned())
}

/// Queries many names that start with different numbers, and returns how many.
fn stat_many(files: &Files, count: &str, base: &str, path: &str) -> Outcome {
    let base = files.get(base)?;
    for at in 0..number(count)? {
        let _ = base.stat_at(PathFlags::empty(), &format!("{at}{path}"));
    }
    Ok(count.to_owned())
}

fn fill(file: &Descriptor, bytes: u64) -> Outcome {
    let piece = [b'x'; 1000];
    let mut written = 0;
    while written < bytes {
        match file.write(&piece[..(bytes - written).min(1000) as usize], written) {
            Ok(more) => written += more,
            Err(found) => return Ok(format!("{written} then {}", code(found))),
        }
    }
    Ok(written.to_string())
}

fn stat(found: Result<wasip2::filesystem::types::DescriptorStat, ErrorCode>) -> Outcome {
    let found = found.map_err(code)?;
    let times = found.data_modification_timestamp.map_or("no times", |_| "times");
    Ok(format!("{:?} {} bytes, {} links, {times}", found.type_, found.size, found.link_count))
}

fn list(folder: &Descriptor) -> Outcome {
    let names = folder.read_directory().map_err(code)?;
    let mut found = Vec::new();
    while let Some(entry) = names.read_directory_entry().map_err(code)? {
        found.push(entry.name);
    }
    found.sort();
    Ok(found.join(" "))
}
