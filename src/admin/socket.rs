//! The Unix socket of administration: opened by its owner alone, and gone with the gateway.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Who asks and finds this many waiting is refused by the kernel.
const BACKLOG: i32 = 64;

/// A bound socket; nobody is served there yet. Its name goes when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file is ours: another gateway may have put its own there.
    inode: (u64, u64),
}

/// A socket that cannot be listened on.
#[derive(Debug)]
pub struct AdminError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    InUse,
    NoSocket,
    Failed(io::Error),
}

impl AdminSocket {
    /// Binds it, in the place of one that a gateway has left behind that was killed.
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        let refuse = |why| AdminError { path: path.to_owned(), why };
        make_room(path).map_err(refuse)?;
        let listener = listen(path).map_err(|error| refuse(Why::Failed(error)))?;
        let inode = inode(path).map_err(|error| refuse(Why::Failed(error)))?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// The socket, once more.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A name that leads to nobody is in the way of no one.
fn make_room(path: &Path) -> Result<(), Why> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Why::Failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(Why::NoSocket),
        Ok(_) => match knock(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(Why::Failed)
            }
            // One who does not accept, with as many waiting as it lets wait, is there all the same.
            Ok(()) => Err(Why::InUse),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Why::InUse),
            Err(error) => Err(Why::Failed(error)),
        },
    }
}

/// Connects, and does not wait until it may.
fn knock(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode that the socket has when it is bound: there is no moment at which others could open it,
    // as there would be with a chmod of the file, and the umask of the process stays what it is.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Where it cannot be removed, the next gateway does.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.path.display())?;
        match &self.why {
            Why::InUse => f.write_str("another process listens there"),
            Why::NoSocket => f.write_str("there is a file that is no socket"),
            Why::Failed(error) => write!(f, "{error}"),
        }
    }
}

// The cause is part of the line above; it would be told twice as a source.
impl std::error::Error for AdminError {}
