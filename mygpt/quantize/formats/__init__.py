"""One file a scheme: `mygpt.quantize.schemes` finds and registers it. Modules here import no torch at their top."""
