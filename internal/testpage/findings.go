package testpage

import (
	"runtime"
	"slices"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/sandbox"
)

// Setup is what the page tells of the service besides the request. It is looked
// up before the core is confined, which can ask neither files nor databases.
type Setup struct {
	Sockets     map[string]Socket // by the listener's name
	Enforced    string            // what the system asks of who connects to a file
	User        string            // who onewake runs as
	UID         int
	Users       map[int]string // names of those who may be expected to connect
	Allow       string         // -allow, empty if not given
	ContentType string         // of raw output
	Dir         string         // where a command would run
	Env         []string       // names of the variables of -env
}

// Socket is a socket file.
type Socket struct {
	File  string   // mode and owner, "0660 onewake:www"; empty if there is none
	Open  bool     // for every user of the machine
	Notes []string // of [perms.Notes]
}

// believed are the fields that -forwarded can name, in the order in which the
// page names them.
var believed = []string{"X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "X-Remote-User"}

// view is one request as the page sees it.
type view struct {
	*Page
	r       *cgi.Request
	wire    *cgi.Wire
	lines   []string
	socket  Socket
	sandbox sandbox.State
	vouched bool // REMOTE_ADDR is an address that the web server told

	// What is to be mended, and what is well to know: sentences for say.
	mend, note [][]string
}

// variable gives the value of a variable of this request, or nothing.
func (v *view) variable(name string) string {
	for _, l := range v.lines {
		if value, ok := strings.CutPrefix(l, name+"="); ok {
			return value
		}
	}
	return ""
}

func (v *view) has(name string) bool {
	return slices.ContainsFunc(v.lines, func(l string) bool { return strings.HasPrefix(l, name+"=") })
}

// came tells whether the request has a field of this name.
func (v *view) came(name string) bool {
	return slices.ContainsFunc(v.wire.Fields, func(f cgi.Field) bool { return strings.EqualFold(f.Name, name) })
}

func (v *view) believes(name string) bool { return v.Forwarded&cli.ForwardedBit(name) != 0 }

// peer is the name of the user who connected, if it is known.
func (v *view) peer() string { return v.Setup.Users[v.r.Peer.UID] }

// look finds out what there is to say.
func (v *view) look() {
	v.socket = v.Setup.Sockets[v.wire.Listener]
	if v.Page.Sandbox != nil {
		v.sandbox = v.Page.Sandbox()
	}
	// A peer's own address comes with its port, or is no address.
	v.vouched = v.variable("REMOTE_ADDR") != v.r.Peer.Addr || v.r.Peer.Port != "" && !v.has("REMOTE_PORT")
	if v.Protocol == cli.FastCGI {
		v.vouched = v.has("REMOTE_ADDR")
	}
	if v.wire.Unix {
		v.lookAtPeer()
	} else {
		v.lookAtPort()
	}
	if v.Setup.UID == 0 {
		v.toMend("onewake runs as root, and so would the command.")
	}
	v.lookAtProtocol()
	if v.Protocol == cli.FastCGI {
		v.lookAtParameters()
	} else {
		v.lookAtForwarded()
	}
	v.lookAtSandbox()
}

func (v *view) toMend(s ...string) { v.mend = append(v.mend, s) }
func (v *view) toKnow(s ...string) { v.note = append(v.note, s) }

// lookAtPeer judges who connected to a socket file, and who else could.
func (v *view) lookAtPeer() {
	switch uid := v.r.Peer.UID; {
	case uid == 0:
		v.toMend("who connected is root, who gets in whatever the mode says, so that this request does not show that the web server can. " +
			"If it was the web server, its workers should be another user.")
	case uid >= 0 && uid == v.Setup.UID:
		v.toMend("who connected is onewake's own user, whom the mode always lets in. " +
			"If it was the web server, whoever breaks into it owns onewake too: give each a user of its own.")
	}
	for _, n := range v.socket.Notes {
		switch {
		case !v.socket.Open:
			v.toKnow("by the mode of the socket file, " + n + ".")
		case v.Setup.Allow == "":
			v.toMend("by the mode of the socket file, "+n+". ", "-socket-mode 0660", " keeps others than its group out, ", "-allow", " lets in those whom it names.")
		}
	}
}

// lookAtPort judges a TCP listener.
func (v *view) lookAtPort() {
	if !v.wire.Local {
		v.toMend("the port is not one of the loopback interface, so that other machines may reach it past a web server in front. Listen on ", "127.0.0.1", ", or on a ", "unix:", " socket.")
	} else {
		v.toKnow("every user of this machine can connect to a port, and onewake cannot tell who did. A ", "unix:", " socket has a mode and an owner.")
	}
	switch {
	case v.Protocol == cli.FastCGI:
		v.toKnow("whoever connects to the port is believed: the parameters are the variables.")
	case v.Forwarded != 0:
		v.toKnow("whoever connects to the port is believed, by ", "-forwarded", ".")
	}
}

func (v *view) lookAtProtocol() {
	switch {
	case v.wire.Protocol == "HTTP/1.0":
		v.toMend("the request came in HTTP/1.0, in which an answer that was cut short may look whole. nginx: ",
			"proxy_http_version 1.1;", " and ", `proxy_set_header Connection "";`)
	case !v.wire.Keep && v.Protocol == cli.FastCGI:
		v.toKnow("the connection is closed after this request. Where each request is so, keeping it costs less. nginx: ",
			"keepalive 8;", " in the ", "upstream", ", and ", "fastcgi_keep_conn on;")
	case !v.wire.Keep:
		v.toKnow("the connection is closed after this request. Where each request is so, keeping it costs less. nginx: ",
			"keepalive 8;", " in the ", "upstream", ", and ", `proxy_set_header Connection "";`)
	}
}

// lookAtForwarded judges what the web server tells of the client.
func (v *view) lookAtForwarded() {
	var all, more []string // a whole -forwarded, and what is new in it
	for _, name := range believed {
		came := v.came(name)
		switch {
		case v.believes(name):
			all = append(all, name)
			switch {
			case came:
			case name == "X-Remote-User":
				v.toKnow("", name, " is believed, by ", "-forwarded", ", but did not come: the web server names no user. Unless it sets the field in each request, a client can name one. nginx: ",
					"proxy_set_header "+name+" "+nginxVariable[name]+";", " and, only where there is ", "auth_basic", ", ", "proxy_set_header X-Remote-User $remote_user;")
			default:
				v.toMend("", name, " is believed, by ", "-forwarded", ", but did not come. Unless the web server sets it in each request, a client can send one of its own. nginx: ",
					"proxy_set_header "+name+" "+nginxVariable[name]+";")
			}
		case came && !(name == "X-Forwarded-For" && v.believes("X-Real-IP")):
			all, more = append(all, name), append(more, name)
		}
	}
	address := v.believes("X-Real-IP") && v.came("X-Real-IP") || v.believes("X-Forwarded-For") && v.came("X-Forwarded-For")
	if address && !v.vouched {
		v.toKnow("the web server's own client came through a Unix socket, and has no address: ", "REMOTE_ADDR", " is ", v.r.Peer.Addr, ".")
	}
	if len(more) > 0 {
		v.toKnow("not believed: ", strings.Join(more, ", "), ". What the web server itself sets, in each request, can be: start onewake with ",
			"-forwarded "+strings.Join(all, ","))
	}
	if v.Forwarded&(cli.XRealIP|cli.XForwardedFor) == 0 && !v.came("X-Real-IP") && !v.came("X-Forwarded-For") {
		v.toKnow("the client's address is not known: ", "REMOTE_ADDR", " is ", v.r.Peer.Addr, ". nginx: ",
			"proxy_set_header X-Real-IP "+nginxVariable["X-Real-IP"]+";", ", and start onewake with ", "-forwarded "+strings.Join(append([]string{"X-Real-IP"}, all...), ","))
	}
}

// nginxVariable is what nginx knows of what a field tells.
var nginxVariable = map[string]string{
	"X-Real-IP":         "$remote_addr",
	"X-Forwarded-For":   "$proxy_add_x_forwarded_for",
	"X-Forwarded-Proto": "$scheme",
	"X-Forwarded-Host":  "$host:$server_port",
	"X-Request-Id":      "$request_id",
	"X-Remote-User":     `""`, // without auth_basic, $remote_user is what the client claims
}

func (v *view) lookAtSandbox() {
	reach := "what breaks into the core, which reads what strangers send, can do what user " + v.Setup.User + " can"
	switch {
	case v.sandbox == sandbox.None:
		v.toKnow("there is no sandbox: " + sandbox.ErrUnsupported.Error() + ". " + strings.ToUpper(reach[:1]) + reach[1:] + ".")
	case v.sandbox == sandbox.Off && runtime.GOOS == "freebsd":
		v.toMend("the sandbox is off, by ", "-sandbox off", ": "+reach+".")
	case v.sandbox == sandbox.Off:
		v.toKnow("the sandbox is off, by ", "-sandbox off", ", and there is none on "+runtime.GOOS+".")
	}
}
