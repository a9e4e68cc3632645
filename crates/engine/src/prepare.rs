//! Images of whole operating systems with Ireko's agent in them.
//!
//! ```text
//!   image ◄─ new layer ─► VM: Prepare ─► publish ─► image, whose containers can be asked
//! ```

use crate::blocking::to_its_end;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::guest_work::Derived;
use crate::store::{ImageInfo, Kind, Name};
use ireko_images::NameInUse;
use ireko_protocol::plan::Work;

impl Engine {
    /// Makes an image of `reference`'s system with the agent as a service of it.
    ///
    /// Errors where the image holds no whole operating system, or one that the agent cannot be put into
    /// offline, and where an image has the name; then nothing is left of the new one.
    pub async fn prepare_image(&self, reference: &str, name: &str) -> Result<ImageInfo> {
        let name = Name::parse(name)?;
        let source = self.image(reference).await?;
        if source.kind != Kind::Machine {
            return Err(Error::bad_parameter(format!(
                "{} is no whole operating system: its containers have the agent already",
                source.name
            )));
        }
        let engine = self.clone();
        to_its_end(async move {
            let generalized = source.config.document().generalized;
            let derived = Derived {
                work: Some(Work::Prepare),
                generalized,
                word: "prepared",
                in_use: NameInUse::Stays,
            };
            let image = engine.derive(&source, name, derived).await.map_err(|error| {
                error.or_hint(
                    "in a running container it is put in by hand: ireko agent | ireko ssh root@NAME \
                     'cat > agent && chmod +x agent && ./agent install'",
                )
            })?;
            engine.emit_image(&image.id.to_string(), "prepare", &image.id.to_string());
            Ok(image)
        })
        .await
    }
}
