package sock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

func ExampleParse() {
	for _, s := range []string{
		"unix:/var/run/hello/hello.sock",
		"tcp6:[::1]:080",
		"/tmp/sock",
		"unix:@hello",
	} {
		a, err := sock.Parse(s)
		if err != nil {
			fmt.Println(errors.Is(err, sock.ErrBadAddr), err)
			continue
		}
		fmt.Println(a.Network, a.Address)
	}
	// Output:
	// unix /var/run/hello/hello.sock
	// tcp6 [::1]:80
	// true address "/tmp/sock": a path needs its network, use unix:/tmp/sock
	// true address "unix:@hello": abstract sockets have no permissions, use unix:/path
}

// What a start would find, as for a program's -check flag.
func ExampleConfig_Check() {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	a := sock.Addr{Network: sock.Unix, Address: dir + "/hello.sock"}
	c := sock.Config{Perms: perms.Spec{Mode: perms.Set(0o660)}}

	_, err = c.Check(context.Background(), a)
	fmt.Println("at first:", err)

	if err := os.Chmod(dir, 0o777); err != nil {
		log.Fatal(err)
	}
	_, err = c.Check(context.Background(), a)
	var e *sock.Error
	if errors.As(err, &e) && e.Cause == sock.DirWritable {
		fmt.Printf("to mend: chmod to take %04o away from the directory: %v\n", e.Mode, e.Path == dir)
	}
	fmt.Println("unsafe directory:", errors.Is(err, sock.ErrUnsafeDir))
	// Output:
	// at first: <nil>
	// to mend: chmod to take 0022 away from the directory: true
	// unsafe directory: true
}
