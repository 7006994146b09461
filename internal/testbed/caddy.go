package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	startDeadline = 30 * time.Second
	stopDeadline  = 15 * time.Second
	pollInterval  = 10 * time.Millisecond
)

// CaddyOptions describe one Caddy process.
type CaddyOptions struct {
	// Name stands in errors.
	Name string
	// Dir is an existing folder that the process may write to; it also keeps
	// the Caddyfile.
	Dir string
	// Caddyfile is the configuration. It must set the admin address to
	// AdminAddress.
	Caddyfile string
	// AdminAddress is host:port on 127.0.0.1.
	AdminAddress string
	// Env is added to the environment.
	Env []string
}

// Caddy is a running Caddy process.
type Caddy struct {
	options CaddyOptions
	cmd     *exec.Cmd
	stdin   io.Closer
	output  *tail
	exited  chan struct{}
	err     error // valid once exited is closed
	http    *http.Client
}

// StartCaddy starts a Caddy and waits until its configuration is in force. If
// that fails, the error holds what the process said last.
func StartCaddy(ctx context.Context, options CaddyOptions) (*Caddy, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting caddy %s: %w", options.Name, err)
	}
	caddyfile := filepath.Join(options.Dir, "Caddyfile")
	err = os.WriteFile(caddyfile, []byte(options.Caddyfile), 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting caddy %s: %w", options.Name, err)
	}
	c := &Caddy{
		options: options,
		output:  new(tail),
		exited:  make(chan struct{}),
		http:    &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: startDeadline},
	}
	c.cmd = exec.Command(executable)
	c.cmd.Dir = options.Dir
	c.cmd.Env = append(environment(options.Dir), childEnv+"="+caddyfile)
	c.cmd.Env = append(c.cmd.Env, options.Env...)
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	ownGroup(c.cmd)
	c.stdin, err = c.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting caddy %s: %w", options.Name, err)
	}
	err = c.cmd.Start()
	if err != nil {
		return nil, fmt.Errorf("starting caddy %s: %w", options.Name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	err = c.waitReady(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Kill())
	}
	return c, nil
}

// AttachCaddy writes the Caddyfile and waits until somebody else has started a
// Caddy with it: in a container, say. Stop and Kill then leave it alone, Log is
// empty, and PID is 0.
func AttachCaddy(ctx context.Context, options CaddyOptions) (*Caddy, error) {
	c := &Caddy{
		options: options,
		output:  new(tail),
		exited:  make(chan struct{}),
		http:    &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: startDeadline},
	}
	// A reader must not see half of it.
	written := filepath.Join(options.Dir, "Caddyfile")
	err := os.WriteFile(written+".new", []byte(options.Caddyfile), 0o600)
	if err != nil {
		return nil, fmt.Errorf("waiting for caddy %s: %w", options.Name, err)
	}
	err = os.Rename(written+".new", written)
	if err != nil {
		return nil, fmt.Errorf("waiting for caddy %s: %w", options.Name, err)
	}
	return c, c.waitReady(ctx)
}

// waitReady polls until the configuration is in force: the admin endpoint comes
// up before it, so it is asked for the running one.
func (c *Caddy) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-c.exited:
			return fmt.Errorf("caddy %s ended while it started: %w\n%s", c.options.Name, c.err, c.Log())
		case <-ctx.Done():
			return fmt.Errorf("caddy %s did not start: %w\n%s", c.options.Name, ctx.Err(), c.Log())
		case <-ticker.C:
		}
		var config json.RawMessage
		status, err := c.Admin(ctx, http.MethodGet, "/config/", nil, &config)
		if err == nil && status == http.StatusOK && !bytes.Equal(bytes.TrimSpace(config), []byte("null")) &&
			(c.cmd == nil || strings.Contains(c.Log(), "serving initial configuration")) {
			return nil
		}
	}
}

// Admin sends a request to the admin endpoint: body, if not nil, as JSON; the
// answer is decoded into into, if not nil. It returns the status.
func (c *Caddy) Admin(ctx context.Context, method, path string, body, into any) (int, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		reader = bytes.NewReader(data)
	}
	status, answer, err := c.admin(ctx, method, path, "application/json", reader)
	if err != nil || into == nil {
		return status, err
	}
	err = json.Unmarshal(answer, into)
	if err != nil {
		return status, fmt.Errorf("%s %s: decoding %q: %w", method, path, answer, err)
	}
	return status, nil
}

func (c *Caddy) admin(ctx context.Context, method, path, contentType string, body io.Reader) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.options.AdminAddress+path, body)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	if path == "/load" {
		request.Header.Set("Cache-Control", "must-revalidate")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	return response.StatusCode, data, err
}

// Reload replaces the configuration, also by one that is equal to it: Caddy then
// provisions and starts everything anew. The error holds Caddy's answer if it
// rejected the new one.
func (c *Caddy) Reload(ctx context.Context, caddyfile string) error {
	status, answer, err := c.admin(ctx, http.MethodPost, "/load", "text/caddyfile", strings.NewReader(caddyfile))
	if err != nil {
		return fmt.Errorf("reloading caddy %s: %w", c.options.Name, err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("reloading caddy %s: %d %s", c.options.Name, status, answer)
	}
	return nil
}

// Log returns what the process has written.
func (c *Caddy) Log() string { return c.output.String() }

// Exited is closed when the process has ended.
func (c *Caddy) Exited() <-chan struct{} { return c.exited }

// PID returns the id of the process.
func (c *Caddy) PID() int {
	if c.cmd == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

// Stop ends the process in order, by closing its standard input, and waits. A
// process that does not end is killed, which is an error.
func (c *Caddy) Stop() error {
	if c.cmd == nil {
		c.http.CloseIdleConnections()
		return nil
	}
	_ = c.stdin.Close()
	timer := time.NewTimer(stopDeadline)
	defer timer.Stop()
	select {
	case <-c.exited:
		c.http.CloseIdleConnections()
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("caddy %s did not stop within %s\n%s", c.options.Name, stopDeadline, c.Log()), c.Kill())
	}
}

// Kill ends the process as kill -9 does, and waits.
func (c *Caddy) Kill() error {
	if c.cmd == nil {
		return c.Stop()
	}
	err := c.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-c.exited
	_ = c.stdin.Close()
	c.http.CloseIdleConnections()
	return err
}

// The ports of FreeAddress lie below those that systems give to outgoing
// connections and to listeners that ask for any port: between the look and the
// start of a Caddy nobody else gets them by chance. Processes that run at the
// same time begin at different ones.
const (
	firstPort      = 20_000
	ports          = 12_000
	portsOfProcess = 64
)

var addresses atomic.Int64

// FreeAddress returns a host:port on 127.0.0.1 that nothing listens on.
func FreeAddress() (string, error) {
	var err error
	for range 1000 {
		port := firstPort + (os.Getpid()*portsOfProcess+int(addresses.Add(1)))%ports
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		var listener net.Listener
		listener, err = net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
	}
	return "", fmt.Errorf("finding a free port: %w", err)
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const maxTail = 4 << 20

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - maxTail; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
