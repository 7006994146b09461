package caddyplugin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// capifCobra is `caddy capif` as it stands in the help.
func capifCobra() *cobra.Command {
	command := capifCommand()
	cmd := &cobra.Command{Use: command.Name + " " + command.Usage, Short: command.Short, Long: command.Long}
	command.CobraFunc(cmd)
	return cmd
}

// TestCommandsPage: docs/commands.md says what the help says. Write it anew with
//
//	go test ./caddyplugin -run TestCommandsPage -update
func TestCommandsPage(t *testing.T) {
	var page strings.Builder
	root := capifCobra()
	page.WriteString("# caddy capif\n\n<!-- Written from the help of the commands: go test ./caddyplugin -run TestCommandsPage -update -->\n")
	page.WriteString(prose(root.Long))
	page.WriteString("\n## Flags of every command\n\n" + flagTable(root.PersistentFlags()))
	for _, cmd := range root.Commands() {
		fmt.Fprintf(&page, "\n## %s\n\n%s.\n", cmd.Name(), cmd.Short)
		fmt.Fprintf(&page, "\n```text\ncaddy capif %s\n```\n%s", strings.TrimSuffix(cmd.Use, " [flags]"), prose(cmd.Long))
		fmt.Fprintf(&page, "\n```sh\n%s\n```\n", strings.ReplaceAll(strings.TrimSpace(cmd.Example), "\n  ", "\n"))
		if table := flagTable(cmd.LocalNonPersistentFlags()); table != "" {
			page.WriteString("\n" + table)
		}
	}
	path := filepath.Join("..", "docs", "commands.md")
	if *update {
		err := os.WriteFile(path, []byte(page.String()), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := repositoryFile(t, "docs", "commands.md"); got != page.String() {
		t.Errorf("docs/commands.md is not what the help says; write it anew with -update")
	}
}

// prose makes a help text Markdown: an indented list stays as it is.
func prose(long string) string {
	var out strings.Builder
	listed := false
	for line := range strings.Lines("\n" + strings.TrimSpace(long) + "\n") {
		indented := strings.HasPrefix(line, "  ")
		if indented && !listed {
			out.WriteString("\n```text\n")
		}
		listed = indented
		out.WriteString(line)
	}
	if listed {
		out.WriteString("```\n")
	}
	return out.String()
}

func flagTable(flags *pflag.FlagSet) string {
	var rows strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		fmt.Fprintf(&rows, "| %s | %s |\n", name, f.Usage)
	})
	if rows.Len() == 0 {
		return ""
	}
	return "| flag | meaning |\n|---|---|\n" + rows.String()
}

// TestCommandsHaveExamples: each has a short text, a long one, and an example that
// calls it.
func TestCommandsHaveExamples(t *testing.T) {
	names := map[string]bool{}
	for _, cmd := range capifCobra().Commands() {
		names[cmd.Name()] = true
		if cmd.Short == "" || cmd.Long == "" || !strings.Contains(cmd.Example, "caddy capif "+cmd.Name()) {
			t.Errorf("%s: got %q, %q, %q; want texts and an example of it", cmd.Name(), cmd.Short, cmd.Long, cmd.Example)
		}
	}
	for _, want := range []string{"status", "revoke", "list", "show", "lift", "check", "audit", "watch", "reconcile", "export"} {
		if !names[want] {
			t.Errorf("got no command %s; want it", want)
		}
	}
}
