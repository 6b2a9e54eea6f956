package cli

import (
	"fmt"
	"strings"
)

// EngineWords are docker's verbs of the top level, and where they are here. Those that
// docker compose has too are a project's verbs inside of one.
var EngineWords = map[string]string{
	"attach": "container attach", "build": "image build", "commit": "container commit", "cp": "container cp",
	"create": "container create", "diff": "container diff", "events": "system events", "exec": "container exec",
	"export": "container export", "history": "image history", "images": "image ls", "import": "image import",
	"info": "system info", "kill": "container kill", "load": "image load", "logs": "container logs",
	"pause": "container pause", "port": "container port", "ps": "container ls", "pull": "image pull",
	"push": "image push", "rename": "container rename", "restart": "container restart", "rm": "container rm",
	"rmi": "image rm", "run": "container run", "save": "image save", "start": "container start",
	"stats": "container stats", "stop": "container stop", "tag": "image tag", "top": "container top",
	"unpause": "container unpause", "update": "container update", "wait": "container wait",
}

// EngineForm is how a verb of a project is written where docker's is meant, with
// arguments behind it, "" for those that docker does not have.
func EngineForm(verb, arguments string) string {
	words := EngineWords[verb]
	if words == "" || arguments != "" && (verb == "ps" || verb == "events") { // which take no names
		return ""
	}
	noun, _, _ := strings.Cut(words, " ")
	article := "a"
	if noun == "image" {
		article = "an"
	}
	if noun == "system" {
		article, noun = "the whole", "engine"
	}
	return fmt.Sprintf("for %s %s use %q", article, noun, strings.TrimSpace("stack "+words+" "+arguments))
}

// NamingEngine adds to an error about something that is no service what its verb is called
// for docker's objects.
func NamingEngine(err error, verb string, names []string) error {
	if err == nil || !strings.Contains(err.Error(), "no such service") {
		return err
	}
	if form := EngineForm(verb, strings.Join(names, " ")); form != "" {
		return fmt.Errorf("%w; %s", err, form)
	}
	return err
}
