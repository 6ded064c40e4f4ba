//! The secret key for seals: created on first use, and replaced if its file is damaged.

use std::io::{self, Read, Write};
use std::path::Path;

use super::private::{PrivateError, PrivateFolder};

/// The secret key for seals, created on first use.
pub(in crate::sandbox) fn secret(state: Option<&Path>) -> Result<[u8; 32], PrivateError> {
    const NAME: &str = "seal.key";
    let state = state.ok_or(PrivateError::Nowhere { variable: "BELLJAR_STATE_DIR" })?;
    let folder = PrivateFolder::open(state, "BELLJAR_STATE_DIR")?;
    let path = state.join(NAME);
    let failed = |err: io::Error| folder.error(&path, err);
    for _ in 0..2 {
        let mut secret = match read_secret(&folder, NAME)? {
            Stored::Good(secret) => return Ok(secret),
            Stored::Nothing => [0; 32],
            Stored::Damaged => return replaced_secret(&folder, NAME),
        };
        // A temporary file is linked into place, so that two processes agree on one secret and no
        // process reads a part of it.
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
            .map_err(|err| failed(err.into()))?;
        folder.write_new_file(NAME, &secret)?;
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

/// The state of the secret's file.
enum Stored {
    Good([u8; 32]),
    Nothing,
    /// A file of another length, or of zeros, as after a full disk or a power failure.
    Damaged,
}

fn read_secret(folder: &PrivateFolder, name: &str) -> Result<Stored, PrivateError> {
    let Some(file) = folder.open_file(name)? else { return Ok(Stored::Nothing) };
    let mut found = Vec::new();
    file.take(33)
        .read_to_end(&mut found)
        .map_err(|err| folder.error(&folder.path().join(name), err))?;
    Ok(match <[u8; 32]>::try_from(found) {
        Ok(secret) if secret != [0; 32] => Stored::Good(secret),
        _ => Stored::Damaged,
    })
}

/// Replaces a damaged secret by a new one. Files that were sealed with the old one become invalid,
/// and are created again.
fn replaced_secret(folder: &PrivateFolder, name: &str) -> Result<[u8; 32], PrivateError> {
    // The lock makes processes that find the damage at the same time agree on one secret.
    folder.lock_for_a_moment();
    if let Stored::Good(secret) = read_secret(folder, name)? {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| folder.error(&folder.path().join(name), err.into()))?;
    folder.write_file(name, |file| file.write_all(&secret))?;
    // Without locks, another process may have written last.
    match read_secret(folder, name)? {
        Stored::Good(secret) => Ok(secret),
        Stored::Nothing | Stored::Damaged => {
            Err(folder.error(&folder.path().join(name), io::ErrorKind::InvalidData.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_secret_is_replaced_once_and_a_good_one_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        let first = secret(Some(&state)).unwrap();
        assert_eq!(secret(Some(&state)).unwrap(), first);
        for damage in [&[][..], &[7; 31], &[7; 33], &[0; 32], &[0; 5000]] {
            std::fs::write(state.join("seal.key"), damage).unwrap();
            let secrets: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| secret(Some(&state)).unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(secrets.iter().all(|one| *one == secrets[0]), "{damage:?}");
            assert_ne!(secrets[0], first);
            assert_eq!(std::fs::read(state.join("seal.key")).unwrap(), secrets[0]);
        }
    }
}
