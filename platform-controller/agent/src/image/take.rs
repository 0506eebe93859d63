//! The agent's end.

use super::{CHUNK, LARGEST, PATIENCE, PROGRAMS, Program, Taken, at, blocking, hash};
use crate::{
    AgentError,
    wire::{Greeting, send},
};
use edgeplex_runtime::{DEFAULT_IMAGE, is_file_name};
use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    fs::OpenOptions,
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Mutex,
    time::timeout,
};

/// An image that comes, and where it will be.
#[derive(Debug)]
struct Coming {
    programs: Vec<Program>,
    whole: PathBuf,
    part: PathBuf,
}

/// Takes an image into `<dir>/images/<name>`. One at a time.
pub(crate) async fn take<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    dir: &Path,
    name: &str,
    programs: Vec<Program>,
    turn: &Mutex<()>,
) -> Result<(), AgentError> {
    let coming = match check(name, &programs) {
        Ok(()) => {
            let images = dir.join("images");
            Arc::new(Coming { whole: images.join(name), part: images.join(format!(".{name}.part")), programs })
        }
        Err(e) => return send(&mut stream, &Greeting::Refused(e.to_string())).await,
    };
    // An earlier connection that broke may not have noticed yet: who waits for it comes again.
    let _one = turn.lock().await;
    send(&mut stream, &Greeting::Welcome).await?;
    let result = receive_all(&mut stream, &coming).await;
    let said = result.as_ref().map_or_else(|e| Taken::Failed(e.to_string()), |()| Taken::Whole);
    // Whoever has gone does not hear it.
    let _ = send(&mut stream, &said).await;
    result
}

fn check(name: &str, programs: &[Program]) -> Result<(), AgentError> {
    let wrong = |what: String| Err(AgentError::Refused(format!("image `{name}`: {what}")));
    if !is_file_name(name) || name == DEFAULT_IMAGE {
        return wrong("is no name of an image".into());
    }
    let names: BTreeSet<&str> = programs.iter().map(|p| p.name.as_str()).collect();
    if programs.is_empty() || programs.len() > PROGRAMS || names.len() != programs.len() {
        return wrong(format!("must have 1 to {PROGRAMS} programs of different names"));
    }
    match programs.iter().find(|p| !is_file_name(&p.name) || p.bytes > LARGEST) {
        Some(p) => wrong(format!("program `{}` of {} bytes: must have a name, and at most {LARGEST} bytes", p.name, p.bytes)),
        None => Ok(()),
    }
}

async fn receive_all<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, coming: &Arc<Coming>) -> Result<(), AgentError> {
    let this = coming.clone();
    let Some(had) = blocking(move || this.begin()).await? else { return Ok(()) };
    send(stream, &Taken::From(had.clone())).await?;
    let mut chunk = vec![];
    for (program, had) in coming.programs.iter().zip(had) {
        let path = coming.part.join(&program.name);
        let mut file = OpenOptions::new().create(true).append(true).open(&path).await.map_err(at(&path))?;
        let mut left = program.bytes.saturating_sub(had);
        while left > 0 {
            let size = left.min(CHUNK);
            chunk.clear();
            let read = timeout(PATIENCE, (&mut *stream).take(size).read_to_end(&mut chunk)).await;
            let read = read.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map_err(AgentError::io("connection"))? as u64;
            // What has come is kept, also of one that was cut.
            file.write_all(&chunk).await.map_err(at(&path))?;
            file.flush().await.map_err(at(&path))?;
            if read < size {
                return Err(AgentError::io("connection")(ErrorKind::UnexpectedEof.into()));
            }
            left -= size;
            send(stream, &Taken::Chunk).await?;
        }
    }
    let this = coming.clone();
    blocking(move || this.finish()).await
}

impl Coming {
    fn is_whole(&self, dir: &Path) -> bool {
        self.programs.iter().all(|p| hash(&dir.join(&p.name)).is_ok_and(|(bytes, sha256)| bytes == p.bytes && sha256 == p.sha256))
    }

    /// How much of each program is here; `None` if all of it is the image already.
    fn begin(&self) -> Result<Option<Vec<u64>>, AgentError> {
        if self.whole.exists() {
            // What VMs may be made of does not change.
            return if self.is_whole(&self.whole) {
                Ok(None)
            } else {
                Err(AgentError::Refused(format!("{} is another image; take it away first", self.whole.display())))
            };
        }
        fs::create_dir_all(&self.part).map_err(at(&self.part))?;
        for entry in fs::read_dir(&self.part).map_err(at(&self.part))? {
            let entry = entry.map_err(at(&self.part))?;
            let wanted = self.programs.iter().find(|p| entry.file_name() == p.name.as_str());
            if wanted.is_none_or(|p| entry.metadata().is_ok_and(|m| m.len() > p.bytes)) {
                fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        Ok(Some(self.programs.iter().map(|p| fs::metadata(self.part.join(&p.name)).map_or(0, |m| m.len())).collect()))
    }

    /// It is the image, if every byte is right; what is not begins anew the next time.
    fn finish(&self) -> Result<(), AgentError> {
        for program in &self.programs {
            let path = self.part.join(&program.name);
            let (_, sha256) = hash(&path).map_err(at(&path))?;
            if sha256 != program.sha256 {
                fs::remove_file(&path).map_err(at(&path))?;
                return Err(AgentError::Refused(format!("{} was damaged on its way", program.name)));
            }
            fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(at(&path))?;
            fs::File::open(&path).and_then(|f| f.sync_all()).map_err(at(&path))?;
        }
        fs::File::open(&self.part).and_then(|d| d.sync_all()).map_err(at(&self.part))?;
        fs::rename(&self.part, &self.whole).map_err(at(&self.whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::receive;
    use tokio::io::{DuplexStream, duplex};

    struct Agent {
        dir: tempfile::TempDir,
        programs: Vec<Program>,
    }

    const LONG: usize = 600_000;

    /// An image of one short and one long program, and what they are.
    fn agent() -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let (bytes, sha256) = hash(&path).unwrap();
            Program { name: name.into(), bytes, sha256 }
        };
        let programs = vec![program("cvmd", b"short"), program("pvmd", &[7; LONG])];
        Agent { dir, programs }
    }

    impl Agent {
        /// A connection to it, and what became of what came by it.
        fn meet(&self, name: &str) -> (DuplexStream, tokio::task::JoinHandle<Result<(), AgentError>>) {
            let (near, far) = duplex(1 << 20);
            let (dir, name, programs) = (self.dir.path().to_owned(), name.to_owned(), self.programs.clone());
            (near, tokio::spawn(async move { take(far, &dir, &name, programs, &Mutex::new(())).await }))
        }

        /// Until it says from where on.
        async fn begin(&self) -> (DuplexStream, tokio::task::JoinHandle<Result<(), AgentError>>, Vec<u64>) {
            let (mut near, taking) = self.meet("v2");
            assert_eq!(receive::<Greeting>(&mut near).await.unwrap(), Greeting::Welcome);
            match receive::<Taken>(&mut near).await.unwrap() {
                Taken::From(had) => (near, taking, had),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn give(near: &mut DuplexStream, bytes: &[u8]) {
        for chunk in bytes.chunks(usize::try_from(CHUNK).unwrap()) {
            near.write_all(chunk).await.unwrap();
            assert_eq!(receive::<Taken>(near).await.unwrap(), Taken::Chunk);
        }
    }

    #[tokio::test]
    async fn an_image_that_was_cut_goes_on_where_it_was_and_is_there_whole_or_not_at_all() {
        let agent = agent();
        let image = agent.dir.path().join("images/v2");
        let (mut near, taking, had) = agent.begin().await;
        assert_eq!(had, [0, 0]);
        give(&mut near, b"short").await;
        // Half a chunk, and the connection ends.
        near.write_all(&[7; 1000]).await.unwrap();
        drop(near);
        assert!(taking.await.unwrap().is_err() && !image.exists());
        let (mut near, taking, had) = agent.begin().await;
        assert_eq!(had, [5, 1000]);
        give(&mut near, &[7; LONG - 1000]).await;
        assert_eq!(receive::<Taken>(&mut near).await.unwrap(), Taken::Whole);
        taking.await.unwrap().unwrap();
        assert_eq!(fs::read(image.join("pvmd")).unwrap(), [7; LONG]);
        assert_eq!(fs::metadata(image.join("cvmd")).unwrap().permissions().mode() & 0o777, 0o755);
        // Once more: nothing is to be done. As another one: refused.
        let (mut near, taking) = agent.meet("v2");
        assert_eq!(receive::<Greeting>(&mut near).await.unwrap(), Greeting::Welcome);
        assert_eq!(receive::<Taken>(&mut near).await.unwrap(), Taken::Whole);
        taking.await.unwrap().unwrap();
        fs::write(image.join("pvmd"), "other").unwrap();
        let (_near, taking) = agent.meet("v2");
        assert!(taking.await.unwrap().unwrap_err().to_string().contains("is another image"));
    }

    #[tokio::test]
    async fn what_was_damaged_is_no_image_and_begins_anew() {
        let agent = agent();
        let (mut near, taking, _) = agent.begin().await;
        give(&mut near, b"short").await;
        give(&mut near, &[8; LONG]).await;
        assert_eq!(receive::<Taken>(&mut near).await.unwrap(), Taken::Failed("pvmd was damaged on its way".into()));
        assert!(taking.await.unwrap().is_err() && !agent.dir.path().join("images/v2").exists());
        let (_near, _taking, had) = agent.begin().await;
        assert_eq!(had, [5, 0], "what was right stays");
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_and_too_much_are_refused() {
        for name in ["", "..", "a/b", ".v2", "default"] {
            let (mut near, _taking) = agent().meet(name);
            assert!(matches!(receive::<Greeting>(&mut near).await.unwrap(), Greeting::Refused(_)), "{name}");
        }
        let edits: [fn(&mut Vec<Program>); 5] = [
            |p| p[0].name = "../cvmd".into(),
            |p| p[1].bytes = LARGEST + 1,
            |p| p.clear(),
            |p| p[1].name = p[0].name.clone(),
            |p| p.extend((0..20).map(|n| Program { name: format!("p{n}"), bytes: 1, sha256: String::new() })),
        ];
        for (n, edit) in edits.into_iter().enumerate() {
            let mut agent = agent();
            edit(&mut agent.programs);
            let (mut near, _taking) = agent.meet("v2");
            assert!(matches!(receive::<Greeting>(&mut near).await.unwrap(), Greeting::Refused(_)), "{n}");
        }
    }
}
