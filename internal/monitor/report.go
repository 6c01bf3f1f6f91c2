package monitor

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/control"
	coreprocess "github.com/onewake/onewake/internal/core"
	"github.com/onewake/onewake/internal/process"
	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/internal/testpage"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// notes tells what an administrator should know about the start.
func (m *monitor) notes() {
	if os.Geteuid() == 0 {
		m.log.Warn("started as root: the command is root too")
	}
	if need, limit := m.OpenFiles(); need > limit {
		m.log.Warn("the limits may need more open files than the system allows", "need", need, "allowed", limit)
	}
	for _, l := range m.listeners {
		mode, uid, gid, err := fileOf(l)
		if err != nil {
			continue
		}
		level := slog.LevelWarn
		if mode&0o022 == 0o020 {
			level = slog.LevelInfo // the group, and no other: what the socket's directory is for
		}
		for _, n := range perms.Notes(mode, uid, gid) {
			m.log.Log(context.Background(), level, n, "listen", l.Address().String())
		}
	}
}

// startRecord is the first record of a service that serves.
func (m *monitor) startRecord(sandbox string) {
	var listen, files []string
	for _, l := range m.listeners {
		listen = append(listen, listenName(l))
		if s := socketFile(l); s != "" {
			files = append(files, s)
		}
	}
	command := strings.Join(m.Command, " ")
	if m.table != nil {
		command = fmt.Sprintf("%s (%d scripts)", m.Scripts, len(m.table.Names()))
	} else if command == "" {
		command = "test page"
	}
	m.log.Info("start", "version", m.version, "go", runtime.Version(),
		"system", runtime.GOOS+"/"+runtime.GOARCH, "listen", strings.Join(listen, ", "), "socket", strings.Join(files, ", "),
		"enforced", perms.Enforced(), "user", perms.UserName(os.Geteuid()), "sandbox", sandbox,
		"pid", os.Getpid(), "core", m.current.pid, "max_procs", m.MaxProcs, "command", command)
}

// status writes what is known now: of each core what it has told last.
func (m *monitor) status() {
	pid, now := "none", control.Stats{}
	if c := m.current; c != nil && c.state == serving {
		pid, now = strconv.Itoa(c.pid), c.stats
	}
	all := m.past
	for _, c := range m.cores {
		all.AddTotals(c.stats)
	}
	m.log.Info("status", "uptime", time.Since(m.began).Round(time.Second).String(), "core", pid,
		"served", all.Served, "running", m.sup.Running(), "queued", now.Queued, "refused", all.Refused,
		"conns", now.Conns, "restarts", m.restarts, "dropped_records", m.queue.Dropped()+all.Dropped)
}

// listenName is the address as the command line would have it, with the port
// that was taken.
func listenName(l *sock.Listener) string {
	a := l.Address()
	if a.Network == sock.TCP4 || a.Network == sock.TCP6 {
		return a.Network + ":" + l.Addr().String()
	}
	return a.String()
}

// fileOf returns mode, owner and group of the file of a Unix socket, as it now
// is.
func fileOf(l *sock.Listener) (mode fs.FileMode, uid, gid int, err error) {
	if !l.Unix() {
		return 0, -1, -1, fs.ErrNotExist
	}
	fi, err := os.Lstat(l.Addr().String())
	if err == nil && fi.Mode().Type() != fs.ModeSocket {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, -1, -1, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return fi.Mode(), int(st.Uid), int(st.Gid), nil
}

// socketFile says who may do what with a socket file: "0660 onewake:www".
func socketFile(l *sock.Listener) string {
	mode, uid, gid, err := fileOf(l)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%#04o %s:%s", mode.Perm(), perms.UserName(uid), perms.GroupName(gid))
}

// setup is what a core is told. Of -env it needs the names, which no request may
// set; the values, secrets perhaps, are for the command alone.
func (m *monitor) setup() *coreprocess.Setup {
	s := &coreprocess.Setup{Config: *m.Config, Software: "onewake/" + m.version}
	s.Config.Command, s.Config.Env = nil, nil
	for _, v := range m.Env {
		name, _, _ := strings.Cut(v, "=")
		s.Config.Env = append(s.Config.Env, name+"=")
	}
	if need, limit := m.OpenFiles(); need > limit && runtime.GOOS == "freebsd" {
		// A core that has no room for a descriptor may never return from
		// recvmsg(2): uipc_usrreq.c of 15.1.
		s.Config.MaxConns = max(1, m.MaxConns-int(need-limit))
	}
	for _, l := range m.listeners {
		host, port := serverAt(l)
		s.Listeners = append(s.Listeners, coreprocess.Listener{Name: listenName(l), Host: host, Port: port, Unix: l.Unix()})
		if l.LockFile() != nil {
			s.Locks++
		}
	}
	switch {
	case m.table != nil:
		s.Names = m.table.Names()
	case len(m.Command) == 0:
		s.Page = m.pageSetup()
	}
	return s
}

// serverAt returns SERVER_NAME and SERVER_PORT of what comes by a listener (RFC
// 3875 § 4.1.14 and 4.1.15): the host that was asked for, or the address that is
// bound, an IPv6 one without its zone and in brackets; or the machine's name,
// where the socket has no address or has all. Nothing is looked up: a name
// server that is slow or lies has no say in this.
func serverAt(l *sock.Listener) (host, port string) {
	port = "0"
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		port = strconv.Itoa(a.Port)
		if asked := l.Address(); a.IP.IsUnspecified() {
			host = ""
		} else if asked.Network == sock.FD {
			host = a.IP.String()
		} else {
			host, _, _ = net.SplitHostPort(asked.Address)
		}
	}
	if host == "" {
		host, _ = os.Hostname()
	}
	if host == "" {
		host = "localhost"
	}
	if strings.Contains(host, ":") {
		host, _, _ = strings.Cut(host, "%")
		host = "[" + host + "]"
	}
	return host, port
}

// peerOptions are what a core may ask for.
func (m *monitor) peerOptions() control.PeerOptions {
	return control.PeerOptions{
		Max: m.MaxProcs, MaxSpools: m.MaxProcs + m.MaxQueue, SpoolDir: m.SpoolDir, Command: m.command,
		Filter: m.Filter(), Log: m.log,
	}
}

// command finds the command of a request.
func (m *monitor) command(script string) (*process.Command, error) {
	if m.table == nil {
		if script != "" || m.Path == "" {
			return nil, fmt.Errorf("script %.64q", script)
		}
		return &process.Command{Path: m.Path, Args: m.Command, Dir: m.Dir, Env: m.Env}, nil
	}
	path, err := m.table.Path(script) // a core may not yet know that it is gone
	if err != nil {
		m.log.Error("script cannot be run", "script", script, "error", err)
		return nil, control.NoScript
	}
	dir := m.Dir
	if dir == "" {
		dir = filepath.Dir(path)
	}
	return &process.Command{Path: path, Args: []string{path}, Dir: dir, Env: m.Env}, nil
}

// readScripts reads the scripts directory again.
func (m *monitor) readScripts() {
	t, err := scripts.Read(m.Scripts)
	m.read = time.Now() // after it: a large directory is not read all the time
	if err != nil {
		m.log.Error("cannot read the scripts anew", "dir", m.Scripts, "error", err)
		return
	}
	m.table = t
}

// scriptNames are the names of the programs for a core that was asked for one
// that it does not know; nil if it knows them all. The directory is read at most
// once a second.
func (m *monitor) scriptNames(c *core) []string {
	if m.table == nil {
		return nil
	}
	if time.Since(m.read) >= time.Second {
		m.readScripts()
	}
	if names := m.table.Names(); !slices.Equal(names, c.names) {
		c.names = names
		return names
	}
	return nil
}

// pageSetup looks up for the core what the test page tells of the service.
func (m *monitor) pageSetup() *testpage.Setup {
	me := os.Geteuid()
	s := &testpage.Setup{
		Sockets: make(map[string]testpage.Socket), Enforced: perms.Enforced(), User: perms.UserName(me), UID: me,
		Users: make(map[int]string),
	}
	// Those who may be expected to connect, by name: whoever else does is a
	// number, which the core cannot look up.
	uids := append([]int{me, 0}, m.Allow.UIDs...)
	for _, l := range m.listeners {
		mode, uid, gid, err := fileOf(l)
		if err != nil {
			continue
		}
		s.Sockets[listenName(l)] = testpage.Socket{File: socketFile(l), Open: mode&0o002 != 0, Notes: perms.Notes(mode, uid, gid)}
		uids = append(uids, uid)
		// A web server's user has the name of its group, as a rule.
		if uid, err := perms.LookupUser(perms.GroupName(gid)); err == nil {
			uids = append(uids, uid)
		}
	}
	for _, uid := range slices.Compact(slices.Sorted(slices.Values(uids))) {
		if name := perms.UserName(uid); name != strconv.Itoa(uid) {
			s.Users[uid] = name
		}
	}
	var allow []string
	for _, uid := range m.Allow.UIDs {
		allow = append(allow, perms.UserName(uid))
	}
	for _, gid := range m.Allow.GIDs {
		allow = append(allow, ":"+perms.GroupName(gid))
	}
	s.Allow = strings.Join(allow, ", ")
	return s
}
