use super::*;
use edgeplex_mgmt::Answer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "query", deny_unknown_fields)]
enum Question {
    Double { number: u32 },
    Wait,
    Huge,
}

struct Arithmetic(watch::Receiver<bool>);

impl Handler for Arithmetic {
    type Query = Question;
    async fn answer(&self, query: Question) -> Answer<Value> {
        match query {
            Question::Double { number } => match number.checked_mul(2) {
                Some(n) => Answer::Ok(json!(n)),
                None => Answer::Error("too large".into()),
            },
            Question::Wait => {
                let _ = self.0.clone().wait_for(|go| *go).await;
                Answer::Ok(json!("waited"))
            }
            Question::Huge => Answer::Ok(json!("x".repeat(edgeplex_mgmt::MAX_LINE))),
        }
    }
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn many_clients_are_served_while_one_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mgmt.sock");
    // A socket file that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (go, wait) = watch::channel(false);
    let _server = MgmtServer::start(&path, Arithmetic(wait)).unwrap();

    let waiting = tokio::spawn({
        let path = path.clone();
        async move { ask::<_, String>(&path, &Question::Wait, LIMIT).await }
    });
    for number in 0..100 {
        assert_eq!(ask::<_, u32>(&path, &Question::Double { number }, LIMIT).await.unwrap(), number * 2);
    }
    assert!(
        matches!(ask::<_, u32>(&path, &Question::Double { number: u32::MAX }, LIMIT).await, Err(MgmtError::Refused(e)) if e == "too large")
    );
    assert!(matches!(ask::<_, String>(&path, &Question::Huge, LIMIT).await, Err(MgmtError::Refused(e)) if e.contains("too long")));
    assert!(matches!(ask::<_, u32>(&path, &Question::Wait, Duration::from_millis(20)).await, Err(MgmtError::Timeout(_))));
    assert!(!waiting.is_finished());
    go.send(true).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "waited");
}

#[tokio::test]
async fn garbage_and_endless_lines_are_answered_and_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mgmt.sock");
    let (_go, wait) = watch::channel(false);
    let server = MgmtServer::start(&path, Arithmetic(wait)).unwrap();

    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"\xff{}\n").await.unwrap();
    let mut buffer = vec![0; 4096];
    let n = client.read(&mut buffer).await.unwrap();
    assert!(String::from_utf8_lossy(&buffer[..n]).contains("does not decode"));

    client.write_all(&vec![b'['; MAX_QUESTION + 1]).await.unwrap();
    let mut rest = vec![];
    // The server closes with our bytes unread, which the kernel may show as a reset after the answer.
    let _ = client.read_to_end(&mut rest).await;
    assert!(String::from_utf8_lossy(&rest).contains("longer than"));
    assert_eq!(ask::<_, u32>(&path, &Question::Double { number: 1 }, LIMIT).await.unwrap(), 2);

    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mgmt.sock");
    std::fs::write(&path, "precious").unwrap();
    let (_go, wait) = watch::channel(false);
    assert!(matches!(MgmtServer::start(&path, Arithmetic(wait)), Err(MgmtError::Socket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
