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

// logWarnings logs what an administrator may want to change.
func (m *monitor) logWarnings() {
	if os.Geteuid() == 0 {
		m.log.Warn("running as root: commands run as root too")
	}
	if need, limit := m.OpenFiles(); need > limit {
		m.log.Warn("the limits may need more open files than the system allows", "need", need, "allowed", limit)
	}
	for _, l := range m.listeners {
		mode, uid, _, err := fileOf(l)
		if err != nil {
			continue
		}
		level := slog.LevelWarn
		if mode&0o022 == 0o020 {
			level = slog.LevelInfo // only the group can connect, the usual setup
		}
		for _, n := range perms.Notes(mode, uid) {
			m.log.Log(context.Background(), level, n, "listen", l.Address().String())
		}
	}
}

// logStart logs that the service is ready.
func (m *monitor) logStart(sandbox string) {
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

// status logs the status record with the last counters received from the cores.
func (m *monitor) status() {
	pid, now := "none", control.Stats{}
	if c := m.current; c != nil && c.state == serving {
		pid, now = strconv.Itoa(c.pid), c.stats
	}
	all := m.totals
	for _, c := range m.cores {
		all.AddTotals(c.stats)
	}
	m.log.Info("status", "uptime", time.Since(m.startTime).Round(time.Second).String(), "core", pid,
		"served", all.Served, "running", m.sup.Running(), "queued", now.Queued, "refused", all.Refused,
		"conns", now.Conns, "restarts", m.restarts, "dropped_records", m.queue.Dropped()+all.Dropped)
}

// listenName returns the address in the form of -listen, with the actual port.
func listenName(l *sock.Listener) string {
	a := l.Address()
	if a.Network == sock.TCP4 || a.Network == sock.TCP6 {
		return a.Network + ":" + l.Addr().String()
	}
	return a.String()
}

// fileOf returns the current mode, owner and group of a socket file.
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

// socketFile describes a socket file: "0660 onewake:www".
func socketFile(l *sock.Listener) string {
	mode, uid, gid, err := fileOf(l)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%#04o %s:%s", mode.Perm(), perms.UserName(uid), perms.GroupName(gid))
}

// setup returns the configuration of a core. It contains only the names of -env,
// which no request may set. The values may be secrets.
func (m *monitor) setup() *coreprocess.Setup {
	s := &coreprocess.Setup{Config: *m.Config, Software: "onewake/" + m.version}
	s.Config.Command, s.Config.Env = nil, nil
	for _, v := range m.Env {
		name, _, _ := strings.Cut(v, "=")
		s.Config.Env = append(s.Config.Env, name+"=")
	}
	if need, limit := m.OpenFiles(); need > limit && runtime.GOOS == "freebsd" {
		// On FreeBSD 15.1, recvmsg(2) may never return if a descriptor does
		// not fit into the process (uipc_usrreq.c).
		s.Config.MaxConns = max(1, m.MaxConns-int(need-limit))
	}
	for _, l := range m.listeners {
		host, port := serverName(l)
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

// serverName returns SERVER_NAME and SERVER_PORT for a listener (RFC 3875 §§ 4.1.14
// and 4.1.15). The host is that of -listen or the bound address; IPv6 addresses
// are in brackets and have no zone. For Unix sockets and wildcard addresses it is
// the host name of the machine. DNS is not used, because it can be slow or wrong.
func serverName(l *sock.Listener) (host, port string) {
	port = "0"
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		port = strconv.Itoa(a.Port)
		switch listen := l.Address(); {
		case a.IP.IsUnspecified():
		case listen.Network == sock.FD:
			host = a.IP.String()
		default:
			host, _, _ = net.SplitHostPort(listen.Address)
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

// peerOptions limit what a core may ask for.
func (m *monitor) peerOptions() control.PeerOptions {
	return control.PeerOptions{
		Max: m.MaxProcs, MaxSpools: m.MaxProcs + m.MaxQueue, SpoolDir: m.SpoolDir, Command: m.command,
		Filter: m.Filter(), Log: m.log,
	}
}

// command returns the command for a script, or the only command for "".
func (m *monitor) command(script string) (*process.Command, error) {
	if m.table == nil {
		if script != "" || m.Path == "" {
			return nil, fmt.Errorf("script %.64q", script)
		}
		return &process.Command{Path: m.Path, Args: m.Command, Dir: m.Dir, Env: m.Env}, nil
	}
	path, err := m.table.Path(script) // it may have been removed
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

// readScripts reads the scripts directory again. It keeps the old table on errors.
func (m *monitor) readScripts() {
	t, err := scripts.Read(m.Scripts)
	m.tableTime = time.Now() // after reading, which can take long
	if err != nil {
		m.log.Error("cannot reload the scripts", "dir", m.Scripts, "error", err)
		return
	}
	m.table = t
}

// scriptNames answers a core that does not find a script: with all names, or nil if
// they have not changed. It reads the directory once a second at most.
func (m *monitor) scriptNames(c *core) []string {
	if m.table == nil {
		return nil
	}
	if time.Since(m.tableTime) >= time.Second {
		m.readScripts()
	}
	if names := m.table.Names(); !slices.Equal(names, c.names) {
		c.names = names
		return names
	}
	return nil
}

// pageSetup returns what the test page shows and the core cannot look up.
func (m *monitor) pageSetup() *testpage.Setup {
	me := os.Geteuid()
	s := &testpage.Setup{
		Sockets: make(map[string]testpage.Socket), Enforced: perms.Enforced(), User: perms.UserName(me), UID: me,
		Users: make(map[int]string),
	}
	// The core cannot look up users. It knows the names of those that are likely
	// to connect.
	uids := append([]int{me, 0}, m.Allow.UIDs...)
	for _, l := range m.listeners {
		mode, uid, gid, err := fileOf(l)
		if err != nil {
			continue
		}
		s.Sockets[listenName(l)] = testpage.Socket{File: socketFile(l), Open: mode&0o002 != 0, Notes: perms.Notes(mode, uid)}
		uids = append(uids, uid)
		// The user of a web server usually has the name of its group.
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
