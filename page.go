package main

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/testpage"
)

// testPage is what a core without a command serves.
func (c *core) testPage(meta gateway.Meta) *testpage.Page {
	p := &testpage.Page{Meta: meta, Sandbox: func() string { return c.confined }}
	if c.cfg.Page != nil {
		p.Setup = *c.cfg.Page
	}
	return p
}

// maxNames bounds how many names of users a core is told.
const maxNames = 256

// pageSetup looks up for the core what the test page tells of the service.
func (m *monitor) pageSetup() *testpage.Setup {
	me := os.Geteuid()
	s := &testpage.Setup{
		Sockets: make(map[string]testpage.Socket), Enforced: perms.Enforced(), User: perms.UserName(me), UID: me,
		ContentType: m.o.mime, Dir: m.o.dir,
	}
	for _, v := range m.o.env {
		if name, _, _ := strings.Cut(v, "="); name != "PATH" {
			s.Env = append(s.Env, name)
		}
	}
	uids, gids := append([]int{me, 0}, m.o.allow.UIDs...), slices.Clone(m.o.allow.GIDs)
	for _, l := range m.listeners {
		mode, uid, gid, err := l.Info()
		if err != nil {
			continue
		}
		s.Sockets[listenName(l)] = testpage.Socket{File: socketFile(l), Open: mode&0o002 != 0, Notes: perms.Notes(mode, uid, gid)}
		uids, gids = append(uids, uid), append(gids, gid)
	}
	var allow []string
	for _, uid := range m.o.allow.UIDs {
		allow = append(allow, perms.UserName(uid))
	}
	for _, gid := range m.o.allow.GIDs {
		allow = append(allow, ":"+perms.GroupName(gid))
	}
	s.Allow = strings.Join(allow, ", ")
	passwd, _ := os.ReadFile("/etc/passwd")
	group, _ := os.ReadFile("/etc/group")
	s.Users = members(string(passwd), string(group), gids)
	for _, uid := range uids {
		if name := perms.UserName(uid); name != strconv.Itoa(uid) {
			s.Users[uid] = name
		}
	}
	return s
}

// members gives the names of the users in some groups, by what passwd(5) and
// group(5) hold. It is for the page to call peers by name: others, and those of
// another database, stay numbers.
func members(passwd, group string, gids []int) map[int]string {
	named := make(map[string]bool)
	for line := range strings.Lines(group) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 4 {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil && slices.Contains(gids, gid) {
			for name := range strings.SplitSeq(f[3], ",") {
				named[name] = true
			}
		}
	}
	users := make(map[int]string)
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 4 || len(users) == maxNames {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 != nil || err2 != nil || !named[f[0]] && !slices.Contains(gids, gid) {
			continue
		}
		if _, have := users[uid]; !have {
			users[uid] = f[0]
		}
	}
	return users
}
